"""An S3 server with one bucket (moto), for Supabase Storage, which the local Supabase lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.server import ThreadedMotoServer


@dataclass
class Bucket:
    """A bucket of the server at `url`."""

    url: str
    name: str
    client: Any = field(repr=False)

    def files(self) -> dict[str, bytes]:
        """Return the files as path → content."""
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return {one["Key"]: self.client.get_object(Bucket=self.name, Key=one["Key"])["Body"].read() for one in listed}


@contextmanager
def s3_bucket(name: str) -> Iterator[Bucket]:
    """Run a server on a free port. It accepts any access key."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        client.create_bucket(Bucket=name)
        yield Bucket(url, name, client)
        client.close()
    finally:
        server.stop()
