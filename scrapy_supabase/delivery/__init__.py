"""The delivery of chunks: what may start when, one upload, and what a refusal means. No Scrapy, no event loop."""
