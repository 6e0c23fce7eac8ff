"""What a how-to page finds: the pipeline is on, and uploads to the local Supabase."""

import os

BOT_NAME = "shop"
SPIDER_MODULES = ["shop.spiders"]
ADDONS = {"scrapy_supabase.Addon": 300}
SUPABASE_URL = os.environ.get("SUPABASE_URL", "local")
SUPABASE_TABLE = "books"
BATCH_RETRY_DELAY = 0.05
TELNETCONSOLE_ENABLED = False
