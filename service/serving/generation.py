"""A generation: the network, the index and the thresholds that a request works with to its end."""

from dataclasses import dataclass

from model.embedder import Embedder
from service.index import GalleryIndex
from service.serving.replica import Replica
from service.serving.thresholds import Thresholds
from service.store.changes import ActiveModel


@dataclass(frozen=True)
class Generation:
    """One model version in service, with an index of the embeddings of `gallery_embedder` alone.

    Attributes:
        embedder: the network that embeds queries.
        replica: the index, and the number of the last change that it has seen.
        thresholds: what the scores of `embedder` mean: in a verification, and in a search.
        gallery_embedder: the network whose embeddings are in the index. It is `embedder` itself, except while
            a compatible version embeds queries and the index still holds embeddings of the version before.
    """

    embedder: Embedder
    replica: Replica
    thresholds: Thresholds
    gallery_embedder: Embedder

    @property
    def version(self) -> str:
        """Return the model version that embeds queries."""
        return self.embedder.version

    @property
    def has_two_networks(self) -> bool:
        """Tell whether queries and the gallery are embedded by two compatible networks."""
        return self.gallery_embedder is not self.embedder

    @property
    def active_model(self) -> ActiveModel:
        """Return the version of each of the two networks."""
        return ActiveModel(self.version, self.gallery_embedder.version)

    @property
    def index(self) -> GalleryIndex:
        """Return the index to search; `Serving.refresh` brings it up to date."""
        return self.replica.index
