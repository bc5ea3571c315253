"""Everything that can go wrong, as one tree. HTTP statuses stand in ``deployments/errors.py``.

ClearcutError
├── InvalidInput                the caller can mend it
│   ├── ImageRejected           FileTooLarge, UnsupportedFormat, InvalidImage, ImageBomb, ResolutionTooLarge,
│   │                           ImageTooSmall
│   ├── PromptRejected          InvalidPoint, TooManyPoints, TooManyObjects
│   ├── InvalidRequest          a field is missing or has the wrong type
│   ├── ShapeMismatch           arrays that belong together differ in size
│   ├── JobNotFound, FileNotFound, JobNotReady, JobBusy, JobFinished
│   ├── KeyReused               an Idempotency-Key came with another body
│   ├── UploadTimeout           a body came too slowly
│   ├── CallbackRejected        a callback_url that is not allowed
│   ├── Quarantined             a picture that made a model fail again and again
│   ├── Unauthorized            no API key, or one that is not known (any more)
│   └── RateLimitExceeded       a client's requests were too many
├── EmptyMask                   the prompt selected nothing usable
├── EmbeddingLost               embed the image again
├── ModelNotLoaded, ModelUnavailable, ProcessingTimeout, GpuMemoryExhausted
├── Overloaded                  no room now; try again
│   ├── ReplicaDied             the replica died under this call, twice
│   └── LeaseLost               another JobManager owns the jobs now
├── InferenceError              a model failed; the cause is in the log
└── StorageError
    ├── StorageUnavailable      it does not answer in time; try again
    └── StorageFull
"""

from __future__ import annotations


class ClearcutError(Exception):
    """Base of every error the library raises on purpose.

    Args:
        detail: A sentence for the caller; it never holds paths, tracebacks or addresses.
        fields: Further facts for the caller, such as the limit that was passed.
    """

    code = "INTERNAL_ERROR"

    def __init__(self, detail: str, **fields: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only details would be lost on the way between processes.
        return _rebuild, (type(self), self.detail, self.fields)


def _rebuild(cls: type[ClearcutError], detail: str, fields: dict[str, object]) -> ClearcutError:
    return cls(detail, **fields)


class InvalidInput(ClearcutError):
    code = "INVALID_REQUEST"


class InvalidRequest(InvalidInput):
    code = "INVALID_REQUEST"


class ShapeMismatch(InvalidInput):
    code = "INVALID_REQUEST"


class ImageRejected(InvalidInput):
    code = "INVALID_IMAGE"


class FileTooLarge(ImageRejected):
    code = "FILE_TOO_LARGE"


class UnsupportedFormat(ImageRejected):
    code = "INVALID_FORMAT"


class InvalidImage(ImageRejected):
    code = "INVALID_IMAGE"


class ImageBomb(ImageRejected):
    code = "IMAGE_BOMB"


class ResolutionTooLarge(ImageRejected):
    code = "RESOLUTION_TOO_LARGE"


class ImageTooSmall(ImageRejected):
    code = "IMAGE_TOO_SMALL"


class PromptRejected(InvalidInput):
    code = "INVALID_POINT"


class InvalidPoint(PromptRejected):
    code = "INVALID_POINT"


class TooManyPoints(PromptRejected):
    code = "TOO_MANY_POINTS"


class TooManyObjects(PromptRejected):
    code = "TOO_MANY_OBJECTS"


class JobNotFound(InvalidInput):
    code = "JOB_NOT_FOUND"


class FileNotFound(InvalidInput):
    code = "FILE_NOT_FOUND"


class JobNotReady(InvalidInput):
    code = "JOB_NOT_READY"


class JobBusy(InvalidInput):
    code = "JOB_BUSY"


class JobFinished(InvalidInput):
    code = "JOB_FINISHED"


class KeyReused(InvalidInput):
    code = "IDEMPOTENCY_KEY_REUSED"


class CallbackRejected(InvalidInput):
    code = "INVALID_CALLBACK"


class UploadTimeout(InvalidInput):
    code = "UPLOAD_TIMEOUT"


class Quarantined(InvalidInput):
    code = "IMAGE_QUARANTINED"


class Unauthorized(InvalidInput):
    code = "UNAUTHORIZED"


class RateLimitExceeded(InvalidInput):
    code = "RATE_LIMIT_EXCEEDED"


class EmptyMask(ClearcutError):
    code = "EMPTY_MASK"


class EmbeddingLost(ClearcutError):
    code = "INFERENCE_ERROR"


class ModelNotLoaded(ClearcutError):
    code = "MODEL_NOT_LOADED"


class ModelUnavailable(ClearcutError):
    code = "MODEL_UNAVAILABLE"


class Overloaded(ClearcutError):
    code = "OVERLOADED"


class ReplicaDied(Overloaded):
    code = "OVERLOADED"


class LeaseLost(Overloaded):
    code = "OVERLOADED"


class ProcessingTimeout(ClearcutError):
    code = "PROCESSING_TIMEOUT"


class GpuMemoryExhausted(ClearcutError):
    code = "GPU_MEMORY_EXHAUSTED"


class InferenceError(ClearcutError):
    code = "INFERENCE_ERROR"


class StorageError(ClearcutError):
    code = "INTERNAL_ERROR"


class StorageUnavailable(StorageError):
    code = "STORAGE_UNAVAILABLE"


class StorageFull(StorageError):
    code = "STORAGE_FULL"
