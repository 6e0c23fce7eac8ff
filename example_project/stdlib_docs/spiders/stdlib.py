"""Spider of the modules of Python's standard library and the symbols that they define."""

import sys

import scrapy

from stdlib_docs.items import Module, Symbol
from stdlib_docs.site import PydocSite

# Modules with side effects on import: they open a browser or a window, print a poem or run a test.
HARMFUL = {"antigravity", "this", "__hello__", "__phello__", "__main__", "idlelib", "turtledemo", "turtle"}
DULL = {"test", "tests", "encodings", "lib2to3", "distutils", "pydoc_data"}  # tests, character tables, legacy


class StdlibSpider(scrapy.Spider):
    """Spider of pydoc's server: the index, then one page per module, and the modules of packages."""

    name = "stdlib"

    async def start(self):
        self.site = PydocSite()
        yield scrapy.Request(self.site.url)

    def closed(self, reason):
        if hasattr(self, "site"):
            self.site.stop()

    def parse(self, response):
        for link in response.xpath("//td[@class='multicolumn']//a/@href").getall():
            name = link.removesuffix(".html")
            if is_wanted(name):
                yield response.follow(link, self.parse_module, cb_kwargs={"name": name})

    def parse_module(self, response, name):
        title = response.xpath("//title/text()").get("")
        if not title.endswith((f"module {name}", f"package {name}")):
            self.logger.info("%s cannot be imported here", name)  # a module of another operating system
            return
        symbols = list({symbol["name"]: symbol for symbol in self.symbols(response, name)}.values())
        source = response.xpath("//td[@class='extra']//a[starts-with(@href, 'file:')]/@href").get("")
        yield Module(
            name=name,
            summary=first_line(text_of(response.xpath("(//table[@class='heading']/following-sibling::p)[1]"))),
            url=response.xpath("//td[@class='extra']//a[starts-with(@href, 'https://docs.python.org')]/@href").get(),
            symbol_count=len(symbols),
            programming_language="python" if source.endswith(".py") else "c",
        )
        yield from symbols
        # For a package, follow its modules.
        contents = response.xpath("//table[@class='section'][.//strong[@class='bigsection']='Package Contents']")
        for link in contents.xpath(".//a/@href").getall():
            inner = link.removesuffix(".html")
            if inner.startswith(f"{name}.") and is_wanted(inner):
                yield response.follow(link, self.parse_module, cb_kwargs={"name": inner})

    def symbols(self, response, module):
        for section in response.xpath("//table[@class='section']"):
            heading = section.xpath("./tr[1]/td[contains(@class, 'section-title')]")
            title = text_of(heading.xpath("./strong[@class='bigsection']"))
            if name := heading.xpath("./a[@name]/strong/text()").get():  # class <strong>Name</strong>(bases)
                doc = text_of(section.xpath("./tr[2]/td[@colspan]/span[@class='code']"))
                signature = text_of(heading).removeprefix("class ")
                yield self.symbol(module, name, "class", signature, doc)
            elif title == "Functions":
                for term in section.xpath("./tr/td/dl/dt"):
                    if name := term.xpath("./a[@name]/strong/text()").get():
                        doc = text_of(term.xpath("./following-sibling::dd[1]"))
                        yield self.symbol(module, name, "function", text_of(term), doc)
            elif title == "Data":
                for strong in section.xpath("./tr/td[@class='singlecolumn']/strong"):
                    name = text_of(strong)
                    value = strong.xpath("./following-sibling::text()[1]").get("").replace("\xa0", " ")
                    yield self.symbol(module, name, "data", f"{name}{value.rstrip()}", "")

    def symbol(self, module, name, kind, signature, doc):
        return Symbol(
            module=module,
            name=name,
            kind=kind,
            signature=signature[:2000],
            summary=first_line(doc.removeprefix(signature).lstrip()),
            doc=doc,
        )


def is_wanted(name):
    """Return whether a module belongs to the public standard library and is harmless to import."""
    parts = set(name.split("."))
    public = not any(part.startswith("_") for part in parts)
    return name.split(".")[0] in sys.stdlib_module_names and public and not parts & (HARMFUL | DULL)


def text_of(selection):
    """Return the text of a selection without trailing blanks."""
    lines = selection.xpath("string()").get("").replace("\xa0", " ").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


def first_line(text):
    """Return the first line that is not blank."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")
