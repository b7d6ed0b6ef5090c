"""The client of a running service, for programs with an event loop."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import anyio

from service.client import gallery_calls, model_calls, people_calls, search_calls, service_calls
from service.client.calls import Call, Result
from service.client.client import JOB_POLL_S
from service.client.methods import AsyncMethod, AsyncPagedMethod
from service.client.service_answers import Job
from service.client.transport import AsyncTransport


class AsyncClient:
    """A client of one service, which any number of tasks of one event loop may use at once.

    Its methods are those of `Client`: one that returns an answer there is awaited here, and one that returns
    an iterator there returns an asynchronous iterator here. Image files are read
    in the event loop, before a request.

    Args:
        url: of the service, such as "http://127.0.0.1:8000".
        key: the key to send; by default that of the variable REID_API_KEY, or else the one that `reid login`
            has kept for this URL.

    Raises:
        ServiceUnreachable: `url` is not a URL, or the environment names a proxy that cannot be used.
        ClientError: the file that keeps keys cannot be read, or other users can read it.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._transport = AsyncTransport(url, key)

    async def __aenter__(self) -> Self:
        """Check that the service answers, and raise a `ClientError` if not."""
        try:
            await self._transport.ping()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def send(self, call: Call[Result]) -> Result:
        """Send a request that a function of the client describes, and return its answer."""
        return await self._transport.send(call)

    search = AsyncMethod(search_calls.search)
    search_batch = AsyncMethod(search_calls.search_batch)
    verify = AsyncMethod(search_calls.verify)

    enroll = AsyncMethod(gallery_calls.enroll)
    import_archive = AsyncMethod(gallery_calls.import_archive)
    list_items = AsyncPagedMethod(gallery_calls.list_items)
    get_item = AsyncMethod(gallery_calls.get_item)
    get_image = AsyncMethod(gallery_calls.get_image)
    correct_item = AsyncMethod(gallery_calls.correct_item)
    delete_item = AsyncMethod(gallery_calls.delete_item)
    delete_items = AsyncMethod(gallery_calls.delete_items)
    list_cameras = AsyncMethod(gallery_calls.list_cameras)

    list_identities = AsyncPagedMethod(people_calls.list_identities)
    get_identity = AsyncMethod(people_calls.get_identity)
    list_items_of = AsyncPagedMethod(people_calls.list_items_of)
    list_visits = AsyncPagedMethod(people_calls.list_visits)
    list_suggestions = AsyncMethod(people_calls.list_suggestions)
    create_identity = AsyncMethod(people_calls.create_identity)
    describe_identity = AsyncMethod(people_calls.describe_identity)
    delete_identity = AsyncMethod(people_calls.delete_identity)
    erase_identity = AsyncMethod(people_calls.erase_identity)
    merge = AsyncMethod(people_calls.merge)
    split = AsyncMethod(people_calls.split)
    reject = AsyncMethod(people_calls.reject)
    list_operations = AsyncPagedMethod(people_calls.list_operations)
    get_operation = AsyncMethod(people_calls.get_operation)
    undo = AsyncMethod(people_calls.undo)
    list_erasures = AsyncPagedMethod(people_calls.list_erasures)

    list_models = AsyncMethod(model_calls.list_models)
    get_model = AsyncMethod(model_calls.get_model)
    register_model = AsyncMethod(model_calls.register_model)
    activate_model = AsyncMethod(model_calls.activate_model)
    roll_back = AsyncMethod(model_calls.roll_back)
    evaluate_model = AsyncMethod(model_calls.evaluate_model)
    delete_model = AsyncMethod(model_calls.delete_model)

    get_session = AsyncMethod(service_calls.get_session)
    get_stats = AsyncMethod(service_calls.get_stats)
    list_jobs = AsyncMethod(service_calls.list_jobs)
    get_job = AsyncMethod(service_calls.get_job)
    cancel_job = AsyncMethod(service_calls.cancel_job)
    get_retention = AsyncMethod(service_calls.get_retention)
    confirm_expiry = AsyncMethod(service_calls.confirm_expiry)

    async def follow_job(self, job: Job) -> AsyncIterator[Job]:
        """Read the state of a job twice a second until the job has ended; as `Client.follow_job`."""
        while True:
            yield job
            if job.has_ended:
                return
            await anyio.sleep(JOB_POLL_S)
            job = await self.get_job(job.id)
