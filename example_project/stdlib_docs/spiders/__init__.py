"""The spiders: `scrapy crawl stdlib`, `scrapy crawl quotes`."""
