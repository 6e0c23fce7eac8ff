"""Two offers and their shop as dicts, without a download."""

import scrapy

OFFERS = [
    {"url": "https://shop.example/1", "name": "Lamp", "price": {"amount": "12.50", "currency": "EUR"}, "stock": ""},
    {"url": "https://shop.example/2", "name": "Chair", "price": {"amount": "80", "currency": "EUR"}, "stock": "3"},
]


class OffersSpider(scrapy.Spider):
    """`-a phone=555` is the phone number in the first offer; without it, there is none."""

    name = "offers"
    phone = None

    async def start(self):
        for offer in OFFERS:
            yield {"type": "offer", **offer, "phone": self.phone if offer["name"] == "Lamp" else None}
        yield {"type": "shop", "url": "https://shop.example", "name": "Example"}
