import scrapy


class S(scrapy.Spider):
    name = "s"
    custom_settings = {"ADDONS": {"scrapy_supabase.Addon": 300}, "BATCH_RETRY_DELAY": 0.1, "SUPABASE_TABLE": "pub_listings", "SUPABASE_EMPTY_TEXT": "null"}

    async def start(self):
        yield {"url": "u1", "price": "1250.00", "beds": "3", "listed": "2026-01-05", "title": "Full"}
        yield {"url": "u2", "price": "", "beds": "2", "listed": "2026-01-05", "title": "No price"}
        yield {"url": "u3", "price": "1,250.00", "beds": " ", "listed": "", "title": "Comma"}
        yield {"url": "u4", "price": "$99", "beds": "2 beds", "listed": "5 Jan 2026", "title": "Units"}
        yield {"url": "u5", "price": None, "beds": 2.0, "listed": None, "title": ["List"]}
