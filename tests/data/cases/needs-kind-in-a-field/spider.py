import scrapy


class S(scrapy.Spider):
    name = "s"
    custom_settings = {"ADDONS": {"scrapy_supabase.Addon": 300}, "BATCH_RETRY_DELAY": 0.1, "SUPABASE_TABLES": {"*": {"by": "type", "tables": {"profile": "pub_profiles", "comment": "pub_comments"}}}}

    async def start(self):
        yield {"type": "profile", "username": "ann", "full_name": "Ann", "followers": 5}
        yield {"type": "comment", "external_id": "c1", "text": "Hi", "likes": 2}
