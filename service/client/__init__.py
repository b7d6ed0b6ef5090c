"""A Python client of the service's HTTP API. The client imports no other code of the project.

>>> from service.client import Client
>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     answer = client.search([Path("crop.jpg")], camera_id=["door"])
...     print(answer["matches"][0]["identity_id"])
"""

from service.client.answers import (
    ConfirmationAnswer,
    EnrolledItem,
    EnrolmentAnswer,
    Erased,
    Erasure,
    ExistingFile,
    FailedFile,
    HeldExpiry,
    Item,
    Job,
    Match,
    MatchedItem,
    ModelsAnswer,
    ModelVersion,
    RetentionAnswer,
    SearchAnswer,
    SearchCalibration,
    Session,
    Thresholds,
    VerifyAnswer,
    Warned,
)
from service.client.client import Client
from service.client.enrolment import BatchResult, FailedCrop, WarnedCrop, enroll_in_batches
from service.client.errors import ClientError, NoAnswer, Refused, ServiceUnreachable
from service.client.keys import KEY_VARIABLE, find_key, key_file, save_key
from service.client.requests import CropFile, Filters, GroupBy, Layout, OnDuplicate, Strategy

__all__ = [
    "KEY_VARIABLE",
    "BatchResult",
    "Client",
    "ClientError",
    "ConfirmationAnswer",
    "CropFile",
    "EnrolledItem",
    "EnrolmentAnswer",
    "Erased",
    "Erasure",
    "ExistingFile",
    "FailedCrop",
    "FailedFile",
    "Filters",
    "GroupBy",
    "HeldExpiry",
    "Item",
    "Job",
    "Layout",
    "Match",
    "MatchedItem",
    "ModelVersion",
    "ModelsAnswer",
    "NoAnswer",
    "OnDuplicate",
    "Refused",
    "RetentionAnswer",
    "SearchAnswer",
    "SearchCalibration",
    "ServiceUnreachable",
    "Session",
    "Strategy",
    "Thresholds",
    "VerifyAnswer",
    "Warned",
    "WarnedCrop",
    "enroll_in_batches",
    "find_key",
    "key_file",
    "save_key",
]
