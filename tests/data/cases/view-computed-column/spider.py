import scrapy


class S(scrapy.Spider):
    name = "s"
    custom_settings = {"ADDONS": {"scrapy_supabase.Addon": 300}, "BATCH_RETRY_DELAY": 0.1, "SUPABASE_TABLE": "pub_shop", "SUPABASE_ON_CONFLICT": "url"}

    async def start(self):
        for i in range(50):
            yield {"url": f"/{i % 49}", "price": 0 if i == 20 else i + 1, "gross": 7, 'the "URL" of view': "x"}
