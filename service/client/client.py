"""The client of a running service, for programs with threads or with one thing to do."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from service.client import gallery_calls, model_calls, people_calls, search_calls, service_calls
from service.client.calls import Call, Result
from service.client.methods import Method, PagedMethod
from service.client.service_answers import Job
from service.client.transport import Transport

JOB_POLL_S = 0.5


class Client:
    """A client of one service, which any number of threads may use at once.

    Every method may raise a `ClientError`: `ServiceUnreachable` if no connection can be made, `NoAnswer` if
    the connection breaks or times out, and `Refused` if the service answers with an error. Under Raises, a
    method lists the refusals that its caller may cause.

    Args:
        url: of the service, such as "http://127.0.0.1:8000".
        key: the key to send; by default that of the variable REID_API_KEY, or else the one that `reid login`
            has kept for this URL.

    Raises:
        ServiceUnreachable: `url` is not a URL, or the environment names a proxy that cannot be used.
        ClientError: the file that keeps keys cannot be read, or other users can read it.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._transport = Transport(url, key)

    def __enter__(self) -> Self:
        """Check that the service answers, and raise a `ClientError` if not."""
        try:
            self._transport.ping()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def send(self, call: Call[Result]) -> Result:
        """Send a request that a function of the client describes, and return its answer."""
        return self._transport.send(call)

    search = Method(search_calls.search)
    search_batch = Method(search_calls.search_batch)
    verify = Method(search_calls.verify)

    enroll = Method(gallery_calls.enroll)
    import_archive = Method(gallery_calls.import_archive)
    list_items = PagedMethod(gallery_calls.list_items)
    get_item = Method(gallery_calls.get_item)
    get_image = Method(gallery_calls.get_image)
    correct_item = Method(gallery_calls.correct_item)
    delete_item = Method(gallery_calls.delete_item)
    delete_items = Method(gallery_calls.delete_items)
    list_cameras = Method(gallery_calls.list_cameras)

    list_identities = PagedMethod(people_calls.list_identities)
    get_identity = Method(people_calls.get_identity)
    list_items_of = PagedMethod(people_calls.list_items_of)
    list_visits = PagedMethod(people_calls.list_visits)
    list_suggestions = Method(people_calls.list_suggestions)
    create_identity = Method(people_calls.create_identity)
    describe_identity = Method(people_calls.describe_identity)
    delete_identity = Method(people_calls.delete_identity)
    erase_identity = Method(people_calls.erase_identity)
    merge = Method(people_calls.merge)
    split = Method(people_calls.split)
    reject = Method(people_calls.reject)
    list_operations = PagedMethod(people_calls.list_operations)
    get_operation = Method(people_calls.get_operation)
    undo = Method(people_calls.undo)
    list_erasures = PagedMethod(people_calls.list_erasures)

    list_models = Method(model_calls.list_models)
    get_model = Method(model_calls.get_model)
    register_model = Method(model_calls.register_model)
    activate_model = Method(model_calls.activate_model)
    roll_back = Method(model_calls.roll_back)
    evaluate_model = Method(model_calls.evaluate_model)
    delete_model = Method(model_calls.delete_model)

    get_session = Method(service_calls.get_session)
    get_stats = Method(service_calls.get_stats)
    list_jobs = Method(service_calls.list_jobs)
    get_job = Method(service_calls.get_job)
    cancel_job = Method(service_calls.cancel_job)
    get_retention = Method(service_calls.get_retention)
    confirm_expiry = Method(service_calls.confirm_expiry)

    def follow_job(self, job: Job) -> Iterator[Job]:
        """Read the state of a job twice a second until the job has ended.

        Args:
            job: as another method returned it.

        Yields:
            `job` itself, then each state that was read. In the last state the job has ended.
        """
        while True:
            yield job
            if job.has_ended:
                return
            time.sleep(JOB_POLL_S)
            job = self.get_job(job.id)
