"""The models that a script logs (``mlflow.pytorch.log_model``, autolog): files among the run's artifacts."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from typing import Any

from mlflow.entities import (
    LoggedModel,
    LoggedModelParameter,
    LoggedModelStatus,
    LoggedModelTag,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.entities import PagedList
from mlflow.store.tracking.abstract_store import AbstractStore


class ScriptModels(AbstractStore):  # type: ignore[misc]
    """What MLflow asks a store for around a model; it is remembered in this process and recorded nowhere,
    since the folder with the model has all of it."""

    def __init__(self) -> None:
        super().__init__()
        self._models: dict[str, LoggedModel] = {}

    @abstractmethod
    def _model_folder(self, model_id: str) -> str:
        """Where the files of a model go."""

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: list[LoggedModelTag] | None = None,
        params: list[LoggedModelParameter] | None = None,
        model_type: str | None = None,
    ) -> LoggedModel:
        model_id, now_ms = f"m-{uuid.uuid4().hex}", int(time.time() * 1000)
        model = LoggedModel(
            experiment_id=experiment_id,
            model_id=model_id,
            name=name or model_id,
            artifact_location=self._model_folder(model_id),
            creation_timestamp=now_ms,
            last_updated_timestamp=now_ms,
            model_type=model_type,
            source_run_id=source_run_id,
            status=LoggedModelStatus.PENDING,
            tags=tags,
            params=params,
        )
        self._models[model_id] = model
        return model

    def get_logged_model(self, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        model = self._models.get(model_id)
        if model is None:
            raise MlflowException(f"Logged model with ID '{model_id}' not found", RESOURCE_DOES_NOT_EXIST)
        return model

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        model = self.get_logged_model(model_id)
        model.status = status
        return model

    def log_logged_model_params(self, model_id: str, params: list[LoggedModelParameter]) -> None:
        self.get_logged_model(model_id).params.update({param.key: param.value for param in params})

    def set_logged_model_tags(self, model_id: str, tags: list[LoggedModelTag]) -> None:
        self.get_logged_model(model_id).tags.update({tag.key: tag.value for tag in tags})

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        self.get_logged_model(model_id).tags.pop(key, None)

    def delete_logged_model(self, model_id: str) -> None:
        self._models.pop(model_id, None)

    def search_logged_models(self, *args: Any, **kwargs: Any) -> PagedList[LoggedModel]:
        return PagedList(list(self._models.values()), None)
