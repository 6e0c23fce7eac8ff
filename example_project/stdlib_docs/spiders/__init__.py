"""Spiders: `scrapy crawl stdlib` and `scrapy crawl quotes`."""
