"""`GET /x/coffer/blocks`: what the observer has seen since the node started, next to what the node says."""

from threading import Lock

import attrs
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@attrs.define
class Seen:
    """Blocks and receipts that were observed. Observers run in threads."""

    blocks: int = 0
    receipts: int = 0
    height: int = 0
    _lock: Lock = attrs.Factory(Lock)

    def add(self, height: int, receipts: int) -> None:
        with self._lock:
            self.blocks += 1
            self.receipts += receipts
            self.height = height

    def facts(self) -> dict[str, int]:
        with self._lock:
            return {"blocks": self.blocks, "receipts": self.receipts, "height": self.height}


seen = Seen()


async def blocks(request: Request) -> JSONResponse:
    status = await request.app.state.node.ledger.queries.status()
    return JSONResponse({"seen": seen.facts(), "node_height": status.height})


routes = [Route("/blocks", blocks)]
