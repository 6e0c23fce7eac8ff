import scrapy


class Prices(scrapy.Spider):
    name = "prices"
    crawled = 0
    custom_settings = {
        "ADDONS": {"scrapy_supabase.Addon": 300},
        "SUPABASE_STAMPS": {"first_seen": "now", "seen_at": "now"},
        "SUPABASE_TABLES": {"*": {"table": "pt_products", "insert_only": ["first_seen"]}},
    }

    async def start(self):
        for n in range(150):
            yield {"sku": f"p{n}", "title": f"Product {n}", "price": f"{n}.{'95' if n % 10 == 0 and self.crawled == 1 else '90'}", "stock": 0 if n == 5 and self.crawled == 2 else 3}
