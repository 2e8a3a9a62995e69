"""The manifests are what Kubernetes and KubeRay accept, agree with each other, and start commands that there are."""

import json
import os
import re
import shlex
import subprocess
from copy import deepcopy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from commands import UsageError, parse
from kuberay import SPECS, check_against_crd, cluster_of, strictly
from kustomize import build, containers
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from infra.ray.cluster import WORKER_NODES, worker_nodes
from infra.registry import check_concept_name
from infra.storage import open_storage
from serving.cluster import API_KEY_FILE_VARIABLE
from serving.config import ServeConfig
from serving.keys import WEBHOOK_SECRET_VARIABLE
from training.batch.cluster.sizing import lane_need, places
from training.config import make_config

ROOT = Path(__file__).resolve().parents[3]
KUBERNETES = ROOT / "infra" / "kubernetes"
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
KINDS = {"cluster": "RayCluster", "batch": "RayJob", "service": "RayService"}
CRDS = os.environ.get("KUBERAY_CRDS")


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def variant(request):
    return request.param


@pytest.fixture(scope="module", params=list(KINDS))
def overlay(request, variant):
    """(name, objects) of one overlay."""
    return request.param, build(KUBERNETES / "overlays" / variant / request.param)


def only(objects, kind):
    (found,) = [thing for thing in objects if thing["kind"] == kind]
    return found


def rays(overlay):
    """The overlay's RayCluster, RayJob or RayService."""
    name, objects = overlay
    return only(objects, KINDS[name])


def groups(overlay):
    cluster = cluster_of(rays(overlay))
    return [cluster.headGroupSpec, *cluster.workerGroupSpecs]


def environment(container):
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def test_kubernetes_own_objects_keep_to_its_openapi(overlay):
    own = [thing for thing in overlay[1] if not thing["apiVersion"].startswith("ray.io/")]
    assert len(own) >= 5
    for thing in own:
        strictly(thing)


def test_kuberays_objects_keep_to_its_fields(overlay):
    cluster_of(rays(overlay))


@pytest.mark.skipif(not CRDS, reason="KUBERAY_CRDS names no folder of KubeRay's own definitions")
def test_kuberays_objects_keep_to_its_own_definitions(overlay):
    check_against_crd(rays(overlay), Path(CRDS))


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (("spec", "headGroupSpecs"), ValidationError),
        (("spec", "autoscalerOptions", "idleTimeout"), ValidationError),
        (("spec", "autoscalerOptions", "securityContext", "allowPrivilegedEscalation"), kubernetes_validate.ValidationError),
        (("spec", "headGroupSpec", "template", "spec", "serviceAccountname"), kubernetes_validate.ValidationError),
    ],
)  # fmt: skip
def test_a_misspelt_field_would_be_seen(path, error):
    thing = deepcopy(only(build(KUBERNETES / "overlays" / "cpu" / "cluster"), "RayCluster"))
    place = thing
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = True
    with pytest.raises(error):
        cluster_of(thing)


def test_all_objects_are_in_the_one_namespace_and_named_once(overlay):
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in overlay[1]]
    assert len(set(names)) == len(names)
    assert {t["metadata"].get("namespace") for t in overlay[1] if t["kind"] != "Namespace"} == {
        "motiondirector"
    }


def test_what_is_referred_to_is_there(overlay):
    """Accounts, config maps and claims; the secrets are the user's, and only these."""
    objects = overlay[1]
    there = {(thing["kind"], thing["metadata"]["name"]) for thing in objects}
    secrets = set()
    for group in groups(overlay):
        spec = group.template["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in there
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
            if "secret" in volume:
                secrets.add(volume["secret"]["secretName"])
        for container in containers(spec):
            for source in container["envFrom"]:
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in there
                else:
                    assert source["secretRef"] == {"name": "motiondirector-storage", "optional": True}
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted == {volume["name"] for volume in spec.get("volumes", [])}
    assert secrets == ({"motiondirector-api-keys"} if overlay[0] == "service" else set())


def test_no_secret_is_in_the_manifests(overlay):
    assert "Secret" not in {thing["kind"] for thing in overlay[1]}
    text = json.dumps(overlay[1]).lower()
    assert "aws_secret" not in text
    assert "aws_access_key_id" not in text


def pods(overlay):
    """The pods as KubeRay makes them of the groups: with its autoscaler beside the head, where there is one."""
    cluster = cluster_of(rays(overlay))
    for number, group in enumerate(groups(overlay)):
        spec = deepcopy(group.template["spec"])
        if number == 0 and cluster.enableInTreeAutoscaling:
            own = cluster.autoscalerOptions
            sidecar = {
                "name": "autoscaler",
                "securityContext": own.securityContext,
                "volumeMounts": own.volumeMounts,
            }
            spec["containers"].append(sidecar)
        yield spec


def test_pods_are_what_a_restricted_namespace_takes(overlay):
    """Kubernetes's Pod Security Standards, `restricted`, rule by rule."""
    namespace = yaml.safe_load((KUBERNETES / "namespace.yaml").read_text())
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for spec in pods(overlay):
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec)
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == 10001  # the image's user
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"sysctls", "seLinuxOptions", "windowsOptions", "appArmorProfile"} & set(context)
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}  # fmt: skip
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert set(own) <= {"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}
            assert all("hostPort" not in port for port in container.get("ports", []))


def test_nothing_is_written_but_to_volumes(overlay):
    """Ray's sessions are below /tmp, caches in the user's home; KubeRay mounts /dev/shm itself."""
    for spec in pods(overlay):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            writable = {
                mount["mountPath"]: volumes[mount["name"]]
                for mount in container["volumeMounts"]
                if not mount.get("readOnly")
            }
            wanted = {"/tmp"} if container["name"] == "autoscaler" else {"/tmp", "/home/motiondirector"}
            assert wanted <= set(writable)
            assert all("emptyDir" in writable[path] for path in wanted)


def test_only_the_autoscalers_head_has_a_word_with_kubernetes(overlay):
    head, *workers = groups(overlay)
    head, workers = head.template["spec"], [worker.template["spec"] for worker in workers]
    accounts = {thing["metadata"]["name"]: thing for thing in overlay[1] if thing["kind"] == "ServiceAccount"}
    for spec in workers if cluster_of(rays(overlay)).enableInTreeAutoscaling else [head, *workers]:
        assert spec["automountServiceAccountToken"] is False
        assert accounts[spec["serviceAccountName"]]["automountServiceAccountToken"] is False
    named = {"service": ("motiondirector-service", "motiondirector-service")}
    expected = named.get(overlay[0], ("motiondirector-head", "motiondirector-worker"))
    assert (head["serviceAccountName"], *{spec["serviceAccountName"] for spec in workers}) == expected
    for name in set(expected):  # the guide gives each its role
        assert f"--service-account {name}" in GUIDE


def test_engines_have_no_keys(variant):
    """Those are the ingress's, which is on the head."""
    service = only(build(KUBERNETES / "overlays" / variant / "service"), "RayService")["spec"]
    cluster = service["rayClusterConfig"]
    for worker in cluster["workerGroupSpecs"]:
        text = json.dumps(worker)
        for word in ("motiondirector-api-keys", API_KEY_FILE_VARIABLE, WEBHOOK_SECRET_VARIABLE, "/keys"):
            assert word not in text
    assert "motiondirector-api-keys" in json.dumps(cluster["headGroupSpec"])


def test_images_are_named_by_a_digest_that_the_guide_puts_there(overlay, variant, tmp_path):
    """Until then no pod starts: what stands there is no digest."""
    kind = {"cpu": "cpu", "gpu": "cuda"}[variant]
    placeholder = f"sha256:DIGEST-OF-0.1.0-{kind}"
    for group in groups(overlay):
        for container in containers(group.template["spec"]):
            assert container["image"].endswith(f"motiondirector@{placeholder}")
    assert not re.fullmatch("sha256:[0-9a-f]{64}", placeholder)
    # the guide's own line, in a copy, with what `docker push` told
    (line,) = [line for line in GUIDE.splitlines() if line.startswith("sed -i") and "DIGEST-OF" in line]
    folder = Path("infra/kubernetes/overlays", variant, overlay[0])
    (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / folder / "kustomization.yaml"
    file.write_text((ROOT / folder / "kustomization.yaml").read_text())
    given = {"VARIANT": kind, "DIGEST": "sha256:" + "ab" * 32, "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=given, check=True)
    (image,) = yaml.safe_load(file.read_text())["images"]
    assert image["digest"] == given["DIGEST"]


def test_every_container_has_requests_and_probes(overlay):
    for group in groups(overlay):
        for container in containers(group.template["spec"]):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert requests["cpu"] == limits["cpu"]  # Ray counts the limit
            assert requests["memory"] == limits["memory"]
            assert container["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
            assert container["readinessProbe"]["httpGet"]["path"].endswith("/healthz")


def test_ray_is_the_version_of_the_tests_with_tokens(overlay):
    import ray

    cluster = cluster_of(rays(overlay))
    assert cluster.rayVersion == ray.__version__
    assert cluster.authOptions.mode == "token"


def test_the_head_does_not_train_and_workers_have_the_variants_devices(overlay, variant):
    head, *workers = groups(overlay)
    assert head.rayStartParams["num-cpus"] == "0"
    for group in workers:
        (container,) = containers(group.template["spec"])
        assert container["resources"]["limits"].get("nvidia.com/gpu") == {"cpu": None, "gpu": "1"}[variant]
        tolerated = [toleration["key"] for toleration in group.template["spec"].get("tolerations", [])]
        assert tolerated == {"cpu": [], "gpu": ["nvidia.com/gpu"]}[variant]


def test_drivers_know_what_the_autoscaler_can_add(overlay):
    if overlay[0] == "service":
        assert not cluster_of(rays(overlay)).enableInTreeAutoscaling
        return
    head, (workers,) = groups(overlay)[0], groups(overlay)[1:]
    assert cluster_of(rays(overlay)).enableInTreeAutoscaling
    assert workers.minReplicas == 0
    (container,) = containers(workers.template["spec"])
    limits = container["resources"]["limits"]
    each = {"CPU": float(limits["cpu"])}
    if "nvidia.com/gpu" in limits:
        each["GPU"] = float(limits["nvidia.com/gpu"])
    (driver,) = containers(head.template["spec"])
    assert worker_nodes(environment(driver)[WORKER_NODES]) == [each] * workers.maxReplicas


def test_the_head_is_kept_through_drains(overlay):
    name, objects = overlay
    budget = only(objects, "PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] == 1
    chosen = budget["selector"]["matchLabels"]
    labels = groups(overlay)[0].template["metadata"]["labels"]
    assert chosen == {**labels, "ray.io/node-type": "head"}
    assert labels["app.kubernetes.io/component"] == name


def test_the_network_policy_covers_every_pod_and_lets_no_one_else_in(overlay):
    policy = only(overlay[1], "NetworkPolicy")["spec"]
    chosen = policy["podSelector"]["matchLabels"]
    for group in groups(overlay):
        assert chosen.items() <= group.template["metadata"]["labels"].items()
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    inside, *outside = policy["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": chosen}}]}
    named = {port["name"]: port["containerPort"] for g in groups(overlay) for c in containers(g.template["spec"]) for port in c["ports"]}  # fmt: skip
    for rule in outside:
        assert all("namespaceSelector" in peer for peer in rule["from"])
        assert rule["ports"]
        assert {port["port"] for port in rule["ports"]} <= {8265, 8000, *named}
    metadata = [
        rule for rule in policy["egress"] if rule["to"][0].get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
    ]
    assert [rule["to"][0]["ipBlock"]["except"] for rule in metadata] == [["169.254.0.0/16"]]


def test_commands_are_parsed_as_they_would_be():
    made = parse(
        "motiondirector train --concept orbit --data s3://b/clips --workers 4 --zero 3 --address auto"
    )
    assert (made["concept"], made["workers"], made["address"]) == ("orbit", "4", "auto")
    for wrong in ("motiondirector train --concepts orbit", "motiondirector trains"):
        with pytest.raises(UsageError):
            parse(wrong)


def test_a_batch_starts_a_command_that_there_is(variant):
    job = only(build(KUBERNETES / "overlays" / variant / "batch"), "RayJob")
    made = parse(job["spec"]["entrypoint"])
    assert made["address"] == "auto"
    assert (made["lanes"], made["pack"]) == ("auto", "auto")
    assert made["registry"] == open_storage(made["registry"]).uri
    # On the head, which has no GPU; and where a concept failed each start of a new cluster would end so, too.
    assert (made["evaluate"], made["exit_zero"]) == ({"cpu": None, "gpu": False}[variant], True)


def test_the_batchs_manifest_is_mounted_and_names_concepts_and_settings(variant):
    objects = build(KUBERNETES / "overlays" / variant / "batch")
    job = only(objects, "RayJob")["spec"]
    manifest = Path(shlex.split(job["entrypoint"])[2])
    (driver,) = containers(job["rayClusterSpec"]["headGroupSpec"])
    assert [mount["mountPath"] for mount in driver["volumeMounts"] if mount.get("readOnly")] == [
        str(manifest.parent)
    ]
    (batch,) = [thing["data"] for thing in objects if thing["metadata"]["name"] == "motiondirector-batch" and thing["kind"] == "ConfigMap"]  # fmt: skip
    lines = [json.loads(line) for line in batch[manifest.name].splitlines()]
    assert lines
    for line in lines:
        check_concept_name(line.pop("concept"))
        open_storage(line.pop("data"))
        make_config(line)  # the rest are training options


def test_each_worker_of_a_batch_is_a_lane(variant):
    """What its driver knows of the nodes to come gives a lane on every worker there can be, none on the head."""
    job = only(build(KUBERNETES / "overlays" / variant / "batch"), "RayJob")["spec"]["rayClusterSpec"]
    (driver,) = containers(job["headGroupSpec"])
    workers = worker_nodes(environment(driver)[WORKER_NODES])
    nodes = [{"CPU": float(job["headGroupSpec"]["rayStartParams"]["num-cpus"])}, *workers]
    need = lane_need(nodes)
    assert places(nodes, need) == len(workers) == job["workerGroupSpecs"][0]["maxReplicas"]
    assert need.gpus == {"cpu": 0, "gpu": 1}[variant]


def test_the_service_is_what_serve_deploys(variant):
    service = only(build(KUBERNETES / "overlays" / variant / "service"), "RayService")["spec"]
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"])).applications
    module, _, function = application.import_path.partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))
    config = ServeConfig.model_validate(application.args)
    cluster = service["rayClusterConfig"]
    (worker,) = cluster["workerGroupSpecs"]
    (engine,) = containers(worker)
    limits = engine["resources"]["limits"]
    assert config.engine_cpus <= float(limits["cpu"])
    assert config.engine_gpus == float(limits.get("nvidia.com/gpu", 0)) == {"cpu": 0, "gpu": 1}[variant]
    assert config.replicas == worker["replicas"]
    assert config.results.startswith("s3://")
    for group in (cluster["headGroupSpec"], worker):
        (container,) = containers(group)
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["data"] == config.data_dir
    (container,) = containers(cluster["headGroupSpec"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    keys = Path(environment(container)[API_KEY_FILE_VARIABLE])
    assert keys.parent == Path(mounts["keys"])
    assert keys.suffix == ".yaml"  # of plain text no key would have `metrics` or `adapters`, or a quota
    (secret,) = [v for v in container["env"] if v["name"] == WEBHOOK_SECRET_VARIABLE]
    asked = secret["valueFrom"]["secretKeyRef"]
    assert asked["optional"] is True
    assert f"--from-file={keys.name} --from-file={asked['key']}" in GUIDE
    assert f"secret generic {asked['name']} " in GUIDE
    data = {v["name"]: v for v in cluster["headGroupSpec"]["template"]["spec"]["volumes"]}["data"]
    assert "persistentVolumeClaim" in data  # the jobs


def test_the_ingress_stays_with_its_jobs(variant):
    service = only(build(KUBERNETES / "overlays" / variant / "service"), "RayService")["spec"]
    (application,) = yaml.safe_load(service["serveConfigV2"])["applications"]
    (ingress,) = application["deployments"]
    (resource,) = ingress["ray_actor_options"]["resources"].items()
    (words,) = shlex.split(service["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["resources"])
    assert json.loads(words) == dict([resource])
    assert service["rayClusterConfig"]["workerGroupSpecs"][0]["rayStartParams"] == {}
    assert service["upgradeStrategy"] == {"type": "None"}  # never two ingresses on one database


def test_gpu_changes_only_what_it_must():
    """The service's configuration and the batch's command are written out in both; but for the GPU they are the same."""
    batches = [only(build(KUBERNETES / "overlays" / v / "batch"), "RayJob") for v in ("cpu", "gpu")]
    entrypoints = [job["spec"]["entrypoint"] for job in batches]
    assert entrypoints[1] == f"{entrypoints[0]} --no-evaluate"
    configs = [
        yaml.safe_load(
            only(build(KUBERNETES / "overlays" / v / "service"), "RayService")["spec"]["serveConfigV2"]
        )
        for v in ("cpu", "gpu")
    ]
    for config in configs:
        config["applications"][0]["args"].pop("engine_gpus")
    assert configs[0] == configs[1]


def test_one_word_is_the_bucket_everywhere():
    """docs/cluster.md replaces it."""
    files = [*KUBERNETES.rglob("*.yaml"), *(ROOT / "infra" / "aws").iterdir()]
    named = {
        file: set(re.findall(r"(?:s3://|arn:aws:s3:::|BUCKET=)([a-z0-9.-]+)", file.read_text()))
        for file in files
    }
    assert len(set.union(*named.values())) == 1
    assert {file.name for file, buckets in named.items() if buckets} >= {"storage-policy.json", "node.env"}


def test_the_namespace_is_its_own_file_so_that_deleting_one_kind_leaves_the_others():
    namespace = yaml.safe_load((KUBERNETES / "namespace.yaml").read_text())
    strictly(namespace)
    base = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    assert base["namespace"] == namespace["metadata"]["name"]
    assert "Namespace" not in {thing["kind"] for thing in build(KUBERNETES / "base")}


def test_the_three_kinds_are_all_there():
    assert set(SPECS) == set(KINDS.values())
    overlays = {
        path.relative_to(KUBERNETES / "overlays").as_posix() for path in (KUBERNETES / "overlays").glob("*/*")
    }
    assert overlays == {f"{variant}/{kind}" for variant in ("cpu", "gpu") for kind in KINDS}
