"""Downloads one object with the Python package: consume.py NATS_URL STORE KEY FILE"""

import asyncio
import sys

import gantry_client


async def main(url: str, store: str, key: str, path: str) -> None:
    async with await gantry_client.connect(url) as client:
        await client.get(f"{store}/{key}", to=path)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
