"""The books, and then an end that no process can foresee."""

import os
import signal

from shop.spiders.books import BooksSpider


class KilledSpider(BooksSpider):
    """Kills its own process when the last item is on its way."""

    name = "killed"
    kinds = "books"

    async def start(self):
        async for item in super().start():
            yield item
        os.kill(os.getpid(), signal.SIGKILL)
