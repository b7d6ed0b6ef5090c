"""The body and the answer of POST /search/batch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.search import SearchAnswer
from service.api.schemas.strict import StrictModel
from service.gallery.selection import Selection
from service.keys.callers import Cameras
from service.search.queries import Query
from service.search.sought import Sought

MAX_QUERIES = 100
MAX_IMAGES_EACH = 16


class OneOfBatch(Sought):
    """One query of a batch, with the fields of POST /search; the filters are in `filter`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_IMAGES_EACH)] = Field(
        [], description="The places of the crops of the person among `images` of the form, from 0."
    )
    top_k: Annotated[int, Field(ge=1, le=1000, description="The largest number of matches.")] = 10
    group_by: Annotated[
        Literal["identity", "track", "camera", "item"], Field(description="What a match is.")
    ] = "identity"
    min_score: Annotated[
        float, Field(ge=-1, le=1, allow_inf_nan=False, description="Only matches with at least this score.")
    ] = -1.0
    filter: Annotated[Selection, Field(description="Which items are searched.")] = Selection()

    def query(self, cameras: Cameras) -> Query:
        """Return the query for a caller who is limited to some cameras, or to none.

        Raises:
            CameraForbidden: the filter names another camera.
        """
        return Query(self.top_k, self.group_by, self.filter.within(cameras), self.min_score, self, cameras)


class Batch(StrictModel):
    """Up to 100 queries."""

    queries: Annotated[list[OneOfBatch], Field(min_length=1, max_length=MAX_QUERIES)]


class BatchAnswer(BaseModel):
    """The answers in the order of the queries. `took_ms` is of all, also in each of them."""

    request_id: str
    took_ms: float
    answers: list[SearchAnswer]
