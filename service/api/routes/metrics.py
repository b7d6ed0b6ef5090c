"""GET /metrics, for Prometheus."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service.api.scraping import Scraper

router = APIRouter(tags=["operations"])


async def scraper_of(request: Request) -> Scraper:
    """Return the object that makes the answer, which all requests share."""
    scraper: Scraper = request.app.state.scraper
    return scraper


@router.get("/metrics", response_class=PlainTextResponse)
async def get_metrics(scraper: Annotated[Scraper, Depends(scraper_of)]) -> PlainTextResponse:
    """Show the metrics of the service, in the text format of Prometheus."""
    return PlainTextResponse(await scraper.scrape(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
