"""The values of a cluster.yaml that AWS knows: image, zones, and the machine's size, quota and price."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from raybench.errors import UserError
from raybench.text import suggest

IMAGE_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
NO_IMAGE = "ami-PUT-THE-ID-HERE"  # in cluster.yaml until `raybench cluster aws` has filled it in
_QUOTAS = {"g": "L-DB2E81BA", "v": "L-DB2E81BA", "p": "L-417A185B"}  # on-demand vCPU quotas, by family
_PRICING_REGION = "us-east-1"  # one endpoint answers for all regions


@dataclass(frozen=True)
class Machine:
    """A type of machine in one region, as AWS describes it today."""

    region: str
    type: str
    image: str
    zones: tuple[str, ...]
    cpus: int
    gpus: int
    gpu_name: str
    quota_cpus: float | None = None  # None where AWS gives none
    price_an_hour: float | None = None  # US dollars, on demand; None where AWS gives none
    unknown: tuple[str, ...] = ()  # why values above are None

    @property
    def machines_within_quota(self) -> int | None:
        """How many of these machines may run at once."""
        return None if self.quota_cpus is None else int(self.quota_cpus // self.cpus)


def ask_aws(region: str, machine_type: str) -> Machine:
    """Ask AWS with the user's own credentials. Raises UserError, in one line, where AWS refuses."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError:
        raise UserError("asking AWS needs boto3, which is not installed: pip install 'raybench[aws]'") from None
    try:
        image = _client(boto3, "ssm", region).get_parameter(Name=IMAGE_PARAMETER)["Parameter"]["Value"]
        ec2 = _client(boto3, "ec2", region)
        offered = ec2.describe_instance_type_offerings(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [machine_type]}]
        )["InstanceTypeOfferings"]
        if not offered:
            raise UserError(f"gpu={machine_type}: no zone of {region} has it; name another type or region=")
        (described,) = ec2.describe_instance_types(InstanceTypes=[machine_type])["InstanceTypes"]
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"AWS, {region}: {_remedy(boto3, region, error)}") from None
    gpus = described.get("GpuInfo", {}).get("Gpus", [])
    if not gpus:
        raise UserError(f"gpu={machine_type} has no GPU; name a type that has, as in gpu=g5.12xlarge")
    values: dict[str, float | None] = {}
    unknown = []
    for name, ask in (("quota_cpus", _quota), ("price_an_hour", _price)):
        try:
            values[name] = ask(boto3, region, machine_type)
        except (BotoCoreError, ClientError, LookupError) as error:
            values[name] = None
            unknown.append(f"{name.partition('_')[0]}: {' '.join(str(error).split())}")
    return Machine(
        region, machine_type, image, tuple(sorted(offer["Location"] for offer in offered)),
        cpus=described["VCpuInfo"]["DefaultVCpus"], gpus=sum(gpu["Count"] for gpu in gpus),
        gpu_name=f"{gpus[0]['Manufacturer']} {gpus[0]['Name']}", unknown=tuple(unknown), **values,
    )  # fmt: skip


def _remedy(boto3: Any, region: str, error: Exception) -> str:
    """What went wrong and what to do about it, in one line."""
    from botocore.exceptions import EndpointConnectionError, NoCredentialsError

    told = " ".join(str(error).split())
    if isinstance(error, NoCredentialsError):
        return "no credentials; run aws configure, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    regions = boto3.session.Session().get_available_regions("ec2")
    if region not in regions:
        return f"not a region that boto3 knows; {suggest(region, regions)}"
    if isinstance(error, EndpointConnectionError):
        return f"{told.rstrip('.')}; check the network connection to AWS"
    return told


def _client(boto3: Any, service: str, region: str) -> Any:
    from botocore.config import Config

    config = Config(connect_timeout=10, read_timeout=20, retries={"total_max_attempts": 2})
    return boto3.client(service, region_name=region, config=config)


def _quota(boto3: Any, region: str, machine_type: str) -> float:
    quotas = _client(boto3, "service-quotas", region)
    answer = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=_QUOTAS[machine_type[0]])
    return float(answer["Quota"]["Value"])


def _price(boto3: Any, region: str, machine_type: str) -> float:
    wanted = {
        "regionCode": region, "instanceType": machine_type, "operatingSystem": "Linux", "tenancy": "Shared",
        "preInstalledSw": "NA", "capacitystatus": "Used",
    }  # fmt: skip
    filters = [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in wanted.items()]
    (offer,) = _client(boto3, "pricing", _PRICING_REGION).get_products(ServiceCode="AmazonEC2", Filters=filters)[
        "PriceList"
    ]
    (term,) = json.loads(offer)["terms"]["OnDemand"].values()
    (dimension,) = term["priceDimensions"].values()
    return float(dimension["pricePerUnit"]["USD"])


def write_into(text: str, machine: Machine) -> str:
    """A cluster.yaml's text with this machine filled in; comments stay. Raises UserError where a line is missing."""
    changes = (
        (r"^(  region: )\S+", machine.region),
        (r"^(  availability_zone: )\S+", ",".join(machine.zones)),
        (r"^(      ImageId: &image )\S+", machine.image),
        (r"^(    resources: \{)CPU: [1-9]\d*, GPU: \d+", f"CPU: {machine.cpus}, GPU: {machine.gpus}"),
        (r"^(  gpu:\n(?:.*\n)*?      InstanceType: )\S+", machine.type),
    )
    for pattern, value in changes:
        text, count = re.subn(pattern, rf"\g<1>{value}", text, count=1, flags=re.M)
        if not count:
            raise UserError(f"the file has no line like {pattern.strip('^()')!r}; take raybench's own cluster.yaml")
    return text
