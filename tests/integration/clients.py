"""Clients that wait for less long than agents' clients do, and a look at their links."""

from __future__ import annotations

from tokenlane.producer import Client
from tokenlane.producer.link.redis.connect import redis_link
from tokenlane.producer.link.redis.redis_link import RedisLink
from tokenlane.producer.link.redis.timings import Timings
from tokenlane.routing.store.server import Server

QUICK = Timings(beat_every_s=0.2, possible_gap_replay_every_s=0.2, ended_patience_s=0.5, running_patience_s=0.8)


def quick_client(where: str | Server, timings: Timings = QUICK, *, agent: str | None = None) -> Client:
    """A client whose link works by these times."""
    return Client(link=redis_link(where, timings=timings), agent=agent)


def link_of(client: Client) -> RedisLink:
    """The link that an entered client has to its pool."""
    link = client.link
    assert isinstance(link, RedisLink)
    return link
