import scrapy


class Listings(scrapy.Spider):
    name = "listings"
    custom_settings = {
        "ADDONS": {"scrapy_supabase.Addon": 300},
        "SUPABASE_TABLES": {"*": {"table": "pub_hotpads", "on_conflict": "url", "empty_text": "null_everywhere", "none": "skip", "columns": {
            "Name": "property_name", "Contact Name": "contact_name", "Price": "price", "Bedrooms": "bedrooms", "Sqft": "square_feet",
            "Phone Number": "phone_number", "Url": "url", "Listing Time": "listing_date"}}},
    }

    async def start(self):
        yield {"Name": "Flat 1", "Contact Name": "", "Price": "$1,200", "Bedrooms": "2", "Sqft": "800", "Phone Number": None,
               "Url": "https://h.example/1", "Listing Time": "2026-11-01", "Beds / Baths": "2 Beds 1 Bath"}
        yield {"Name": "Flat 2", "Contact Name": "Ann", "Price": "$900", "Bedrooms": "", "Sqft": "", "Phone Number": "556",
               "Url": "https://h.example/2", "Listing Time": "", "Beds / Baths": ""}
