import scrapy


class JobItem(scrapy.Item):
    job_id = scrapy.Field()
    job_title = scrapy.Field()
    business_name = scrapy.Field()
    pay_range = scrapy.Field()
    advertiser_id = scrapy.Field()
    posted_date = scrapy.Field()
    region = scrapy.Field()


class Jobs(scrapy.Spider):
    name = "jobs"
    custom_settings = {
        "ADDONS": {"scrapy_supabase.Addon": 300},
        "SUPABASE_TABLES": {JobItem: {
            "table": "pub_Jobs",
            "columns": {"job_id": "Id", "job_title": "JobTitle", "business_name": "BusinessName", "pay_range": "PayRange",
                        "advertiser_id": "AdvertiserId", "posted_date": "PostedDate"},
            "stamps": {"UpdatedAt": "now"}, "constants": {"IsActive": True, "ExpiryDate": None}, "empty_text": "null",
            "unseen": {"set": {"IsActive": False, "ExpiryDate": "now"}, "at_most": 0.5},
        }},
    }

    async def start(self):
        yield JobItem(job_id="101", job_title="Back again", business_name="A", pay_range="", advertiser_id="77", posted_date="2026-11-20", region="Perth")
        yield JobItem(job_id="103", job_title="New", business_name="B", pay_range="$50", advertiser_id="", posted_date="2026-11-21", region="Perth")
