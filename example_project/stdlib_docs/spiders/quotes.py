"""Spider of a public test site. It needs internet access."""

import scrapy

from stdlib_docs.items import Quote


class QuotesSpider(scrapy.Spider):
    """Spider of the quotes on quotes.toscrape.com, page by page."""

    name = "quotes"
    start_urls = ["https://quotes.toscrape.com/"]

    def parse(self, response):
        for quote in response.css("div.quote"):
            yield Quote(
                author=quote.css("small.author::text").get(""),
                text=quote.css("span.text::text").get(""),
                tags=quote.css("a.tag::text").getall(),
            )
        if following := response.css("li.next a::attr(href)").get():
            yield response.follow(following)
