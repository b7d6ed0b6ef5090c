"""Errors before a service is ready."""

from service.errors.service_error import ServiceError


class BadSettings(ServiceError):
    """A setting has a value that cannot be used."""

    code = "bad_settings"
    status = 500
    title = "Bad settings"


class NotReady(ServiceError):
    """The network and the index are not loaded yet, or could not be loaded."""

    code = "not_ready"
    status = 503
    title = "Not ready"
