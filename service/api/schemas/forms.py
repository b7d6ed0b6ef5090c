"""A model read from a multipart form, for endpoints whose form has files too.

FastAPI reads a whole model from a form only if the form has nothing else.
"""

from collections.abc import Awaitable, Callable
from inspect import Parameter, Signature
from typing import Annotated, Any, TypeVar, get_type_hints

from fastapi import Form
from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def form_of(model: type[Model]) -> Callable[..., Awaitable[Model]]:
    """Return a dependency of FastAPI that reads each field of a model from a field of the form.

    Args:
        model: a model whose fields have defaults and descriptions.
    """
    types = get_type_hints(model, include_extras=True)

    async def read_form(**fields: Any) -> Model:
        return model(**fields)

    parameters = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=field.get_default(call_default_factory=True),
            annotation=Annotated[types[name], Form(description=field.description)],
        )
        for name, field in model.model_fields.items()
    ]
    read_form.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return read_form
