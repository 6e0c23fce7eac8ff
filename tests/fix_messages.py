"""What was said, and the golden file it is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.messages import GOLDEN, Said


@pytest.fixture
def said(request: pytest.FixtureRequest, tmp_path: Path) -> Said:
    """Compare messages with the golden file of the test module: `said("how they were provoked", messages)`."""
    module = Path(request.path)
    name = module.stem.removeprefix("test_")
    return Said(GOLDEN / f"{name}.txt", module.read_text(), {str(tmp_path): "folder"})
