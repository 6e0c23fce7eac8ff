"""A scheduler for fleets: requests of scrapy-redis that are leased, and acknowledged when their items are in the spool.

SCHEDULER = "scrapy_supabase.contrib.redis.LeaseScheduler"

It needs the extra `redis`. docs/how-to/scrapy-redis.md shows what it guarantees.
"""

try:
    import redis as _redis  # noqa: F401 (needed by the modules below)
    import scrapy_redis as _scrapy_redis  # noqa: F401
except ImportError as error:
    raise ImportError("scrapy-redis is not installed. Run: pip install 'scrapy-supabase[redis]'") from error

from scrapy_supabase.contrib.redis.scheduler import LeaseScheduler

__all__ = ["LeaseScheduler"]
