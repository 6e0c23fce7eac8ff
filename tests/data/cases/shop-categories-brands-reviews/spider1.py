import scrapy

CATEGORIES = ("Lamps", "Chairs & tables", "Übergrößen", 'The "best"', "a,b(c)")


class Shop(scrapy.Spider):
    name = "shop"
    price, reviews, mistakes = 10, 3, True
    custom_settings = {
        "ADDONS": {"scrapy_supabase.Addon": 300},
        "BATCH_CHUNK_SIZE": 50,
        "SUPABASE_STAMPS": {"run_id": "run_id"},
        "SUPABASE_TABLES": {
            "*": {
                "table": "sh_products",
                "references": {
                    "category_id": {"table": "sh_categories", "match": {"name": "category"}, "create": True, "columns": {"path": "category_path"}},
                    "brand_id": {"table": "sh_brands", "match": {"name": "brand"}},
                },
                "children": {"reviews": {"table": "sh_reviews", "parent": {"sku": "sku"}, "position": "n", "replace": True}},
            }
        },
    }

    async def start(self):
        for n in range(200):
            category = CATEGORIES[n % len(CATEGORIES)]
            yield {
                "sku": f"s{n}", "title": f"Product {n}", "price": str(self.price + n / 100), "category": category, "category_path": f"/{category}",
                "brand": None if n == 7 else "Nobody" if n == 8 and self.mistakes else ("Acme", 'Lumo, "the lamp"')[n % 2],
                "reviews": [{"author": f"a{i}", "stars": 9 if n == 9 and i == 1 and self.mistakes else i % 5 + 1} for i in range(self.reviews)],
            }  # fmt: skip
