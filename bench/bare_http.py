"""A server on aiohttp that does nothing but check the credentials, parse and answer: what Luna's REST door is measured against.

With `remember` it also keeps when it heard last of each id, in a dict: what any registry does.
"""

import asyncio
import sys
import time

import orjson
import uvloop
from aiohttp import web

CREDENTIALS = "Basic YWRtaW46"
REMEMBER = "remember" in sys.argv
HEARD: dict[str, float] = {}


async def put(request: web.Request) -> web.Response:
    """Answer a PUT with what it holds."""
    if request.headers.get("Authorization") != CREDENTIALS:
        raise web.HTTPUnauthorized
    data = orjson.loads(await request.read())
    if REMEMBER:
        HEARD[request.match_info["instanceId"]] = time.monotonic()
    return web.Response(body=orjson.dumps(data), content_type="application/json")


async def main() -> None:
    """Serve for ever, after one line on stdout."""
    app = web.Application()
    app.router.add_put("/registry/v1/instances/{instanceId}", put)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
