"""Delivery of chunks: order, upload, and handling of refusals. Independent of Scrapy and of event loops."""
