"""Errors of a service that cannot start, or has not started yet."""

from service.errors.service_error import ServiceError


class BadSettings(ServiceError):
    """A setting has a value that cannot be used."""

    code = "bad_settings"
    status = 500
    title = "Bad settings"


class NotReady(ServiceError):
    """The network and the index are still being loaded, or could not be loaded."""

    code = "not_ready"
    status = 503
    title = "Not ready"
