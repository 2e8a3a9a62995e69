"""Models of KubeRay's kinds with the fields that our manifests use (`ray.io/v1`, KubeRay 1.5 to 1.7).

Other fields are errors. No package ships KubeRay's definitions, so tests use these models. If
KUBERAY_CRDS names a folder with the real ones (`kubectl get crd rayclusters.ray.io -o yaml`),
`check_against_crd` also checks against those.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import kubernetes_validate
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

KUBERNETES = "1.33"


def strictly(thing: dict[str, Any]) -> None:
    """Validate a Kubernetes object against its OpenAPI schema; unknown or misspelt fields are errors too."""
    _strictly(json.dumps(thing, sort_keys=True))


@functools.cache  # many tests check the same pods
def _strictly(text: str) -> None:
    kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)


def pod_template(template: dict[str, Any]) -> dict[str, Any]:
    strictly({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template})
    return template


def part_of_container(**fields: Any) -> None:
    """Validate fields that KubeRay passes to a container as fields of a container."""
    pod_template({"spec": {"containers": [{"name": "x", "image": "x", **fields}]}})


PodTemplate = Annotated[dict[str, Any], AfterValidator(pod_template)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AuthOptions(Strict):
    mode: Literal["token", "disabled"]


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: Annotated[int, Field(ge=0)]
    resources: dict[str, Any]
    securityContext: dict[str, Any]
    volumeMounts: list[dict[str, Any]]

    @model_validator(mode="after")
    def _container(self) -> AutoscalerOptions:
        part_of_container(
            resources=self.resources, securityContext=self.securityContext, volumeMounts=self.volumeMounts
        )
        return self


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(HeadGroup):
    groupName: str
    replicas: Annotated[int, Field(ge=0)]
    minReplicas: Annotated[int, Field(ge=0)]
    maxReplicas: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _order(self) -> WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError(f"{self.replicas} is not between {self.minReplicas} and {self.maxReplicas}")
        return self


class Cluster(Strict):
    """RayCluster.spec, RayJob.spec.rayClusterSpec, RayService.spec.rayClusterConfig."""

    rayVersion: str  # the operator needs it for tokens
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: Annotated[list[WorkerGroup], Field(min_length=1)]

    @model_validator(mode="after")
    def _pods_of_the_new_autoscaler_are_not_restarted(self) -> Cluster:
        groups = [self.headGroupSpec, *self.workerGroupSpecs]
        if self.enableInTreeAutoscaling and any("restartPolicy" in g.template["spec"] for g in groups):
            raise ValueError("with autoscaler v2 the operator sets restartPolicy")
        return self


class Job(Strict):
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode"]
    entrypoint: str
    backoffLimit: Annotated[int, Field(ge=0)]
    activeDeadlineSeconds: Annotated[int, Field(ge=1)]
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Annotated[int, Field(ge=0)]
    rayClusterSpec: Cluster


class UpgradeStrategy(Strict):
    type: Literal["NewCluster", "None"]


class Service(Strict):
    upgradeStrategy: UpgradeStrategy
    serveConfigV2: str
    rayClusterConfig: Cluster


SPECS: dict[str, type[Strict]] = {"RayCluster": Cluster, "RayJob": Job, "RayService": Service}


def cluster_of(thing: dict[str, Any]) -> Cluster:
    """The cluster in an object of these kinds. Raises pydantic's or kubernetes-validate's ValidationError."""
    if thing["apiVersion"] != "ray.io/v1":
        raise ValueError(f"{thing['apiVersion']} is not ray.io/v1")
    strictly({"apiVersion": "v1", "kind": "ConfigMap", "metadata": thing["metadata"]})
    spec: Any = SPECS[thing["kind"]].model_validate(thing["spec"])
    return (
        spec if isinstance(spec, Cluster) else getattr(spec, "rayClusterSpec", None) or spec.rayClusterConfig
    )


def check_against_crd(thing: dict[str, Any], folder: Path) -> None:
    """Validate an object against its kind's definition in a folder of CRDs; unknown fields are errors."""
    definitions = [
        definition for file in folder.glob("*.yaml") for definition in yaml.safe_load_all(file.read_text())
    ]
    (crd,) = [found for found in definitions if found["spec"]["names"]["kind"] == thing["kind"]]
    (version,) = [found for found in crd["spec"]["versions"] if found["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    jsonschema.Draft7Validator(closed(schema)).validate(thing)


def closed(schema: Any) -> Any:
    """A CRD's schema that forbids unknown fields (Kubernetes prunes them) and resolves int-or-string."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(part) for key, part in schema.items()}
    if made.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    if (
        isinstance(made.get("properties"), dict)
        and made.get("x-kubernetes-preserve-unknown-fields") is not True
    ):
        made.setdefault("additionalProperties", False)
    return made
