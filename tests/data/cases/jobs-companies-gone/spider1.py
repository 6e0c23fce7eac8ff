import scrapy


class Board(scrapy.Spider):
    name = "board"
    jobs = range(100)
    custom_settings = {
        "ADDONS": {"scrapy_supabase.Addon": 300},
        "SUPABASE_STAMPS": {"run_id": "run_id"},
        "SUPABASE_AFTER_CRAWL": "jb_after_crawl",
        "SUPABASE_TABLES": {
            "*": {
                "table": "jb_jobs",
                "constants": {"source": "board", "isActive": True, "gone_at": None},
                "references": {
                    "companyId": {"table": "jb_companies", "match": {"name": "company.name", "city": "company.city"}, "column": "companyId", "create": True},
                },
                "unseen": {"set": {"isActive": False, "gone_at": "now"}, "where": {"source": "board"}},
            }
        },
    }

    async def start(self):
        for n in self.jobs:
            yield {"url": f"https://board.example/{n}", "title": f"Job {n}", "company": {"name": f"C{n % 7}", "city": ("Wien", "Graz")[n % 2]}}
