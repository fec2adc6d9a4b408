"""Documented programs that keep data: in volumes, in a bucket, in a warehouse. Stand-ins: files that are in the volume
already, a local S3 server, a project for dbt, a pushgateway of Debian's.

Slow (their images take minutes): set INTERMODAL_SLOW_TESTS=1.
"""

from __future__ import annotations

import contextlib
import csv
import getpass
import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from intermodal.worker.images import interpreters
from tests.acceptance.conftest import PROGRAMS, Platform, ProgramFinder, new_platform
from tests.acceptance.test_web import urls_of
from tests.acceptance.test_web_scraping import serving
from tests.object_store import ObjectStore

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1"),
]
needs_312 = pytest.mark.skipif(interpreters.find("3.12") is None, reason="the program asks for Python 3.12")
needs_310 = pytest.mark.skipif(interpreters.find("3.10") is None, reason="the program asks for Python 3.10")


def constrain(platform: Platform, name: str) -> None:
    """Packages of the program's time, as an operator sets it: pip's own setting of the machine."""
    path = PROGRAMS / "examples/constraints" / f"{name}.txt"
    if not path.exists():
        pytest.skip("the documented programs are not beside this checkout")
    platform.env["PIP_CONSTRAINT"] = str(path)


class Site:
    """A deployed program's web functions by their host names, reached at 127.0.0.1."""

    def __init__(self, deployed: str) -> None:
        self._urls = urls_of(deployed)

    def get(self, name: str, path: str) -> httpx.Response:
        host = self._urls[name].removeprefix("http://")
        return httpx.get(f"http://127.0.0.1:{host.rpartition(':')[2]}{path}", headers={"Host": host}, timeout=60)


# -- covid_datasette


def reports(folder: Path) -> int:
    """Daily reports as the program expects them; how many rows."""
    folder.mkdir()
    header = "FIPS,Admin2,Province_State,Country_Region,Last_Update,Lat,Long_,Confirmed,Deaths,Recovered,Active"
    for day in range(1, 11):
        with (folder / f"03-{day:02}-2021.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(header.split(","))
            for place in range(100):
                when = f"2021-03-{day:02} 05:00:00"
                rows.writerow(["", "", f"P{place}", "Utopia", when, "1", "2", place * day, place, 0, ""])
    return 1000


@needs_312
def test_covid_datasette(own_platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    platform, path = own_platform, program("examples/covid_datasette")
    constrain(platform, "covid_datasette")
    rows = reports(tmp_path / "reports")
    volume = "example-covid-datasette-cache-vol"
    platform.builds("volume", "create", volume)
    platform.builds("volume", "put", volume, tmp_path / "reports", "/COVID-19")
    lines = platform.builds("run", path).splitlines()
    assert "Dataset already present and cache=True. Skipping download." in lines
    assert f"Inserted {rows} rows into DB." in lines
    assert "Volume changes committed." in lines
    assert "covid-19.db" in platform.builds("volume", "ls", volume)

    site = Site(platform.builds("deploy", path))
    table = "/covid-19/johns_hopkins_csse_daily_reports.json"
    answer = site.get("ui", f"{table}?day=2021-03-02&_size=5&_shape=objects")
    assert answer.status_code == 200, answer.text
    assert answer.json()["filtered_table_rows_count"] == 100
    assert answer.json()["rows"][1]["confirmed"] == 2
    assert "Utopia" in site.get("ui", "/covid-19/johns_hopkins_csse_daily_reports").text


# -- s3_bucket_mount

BUCKET = "modal-s3mount-test-bucket"
MONTHS = """
import os, sys
import modal

image = modal.Image.debian_slim(python_version="3.12").pip_install(
    "requests==2.31.0", "duckdb==0.10.0", "matplotlib==3.8.3"
)
app = modal.App("months", image=image)

@app.function()
def months():
    import duckdb
    made = {}
    for year in range(2018, 2023):
        for month in range(1, 13):
            duckdb.execute(f'''copy (select make_timestamp({year}, {month}, 1 + range::int % 28, 8, 0, 0)
                as tpep_pickup_datetime from range(280)) to '/tmp/m.parquet' (format parquet)''')
            made[f"yellow_tripdata_{year}-{month:02d}.parquet"] = open("/tmp/m.parquet", "rb").read()
    return made

@app.local_entrypoint()
def main(target: str):
    for name, content in months.remote().items():
        with open(os.path.join(target, name), "wb") as file:
            file.write(content)
"""


@needs_312
def test_s3_bucket_mount(own_platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    platform, path = own_platform, program("examples/s3_bucket_mount")
    store = ObjectStore(tmp_path / "s3.log")
    store.start()
    picture = Path("/tmp/s3_bucket_mount/nyc_yellow_taxi_trips_s3_mount.png")
    try:
        platform.env["INTERMODAL_S3_ENDPOINT"] = store.url
        helper, months = tmp_path / "months.py", tmp_path / "months"
        helper.write_text(MONTHS)
        months.mkdir()
        platform.builds("run", "-q", helper, "--target", months)
        store.s3.create_bucket(Bucket=BUCKET)
        for one in months.iterdir():
            store.s3.put_object(Bucket=BUCKET, Key=one.name, Body=one.read_bytes())
        keys = (f"AWS_ACCESS_KEY_ID={store.key_id}", f"AWS_SECRET_ACCESS_KEY={store.key}")
        platform.builds("secret", "create", "s3-bucket-secret", *keys)
        picture.unlink(missing_ok=True)
        out = platform.builds("run", path)
        assert sum(line.startswith("done => /bucket/yellow_tripdata_") for line in out.splitlines()) == 60
        assert sum(line.startswith("processing => /bucket/yellow_") for line in out.splitlines()) == 60
        assert f"Saving figure to {picture}" in out
        assert picture.read_bytes().startswith(b"\x89PNG")
    finally:
        shutil.rmtree(picture.parent, ignore_errors=True)
        store.stop()


# -- dbt_duckdb

DBT_OF_ITS_TIME = "dbt-core==1.9.4\ndbt-adapters==1.14.8\ndbt-common==1.24.0\nduckdb==1.2.2\nprotobuf<6\n"


def dbt_project(folder: Path) -> None:
    """What the program has beside it: a seed, a model and a warehouse of its own in the target's volume."""
    for name in ("models", "seeds"):
        (folder / name).mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(
        "name: sample\nversion: '1.0'\nprofile: sample\nmodel-paths: [models]\nseed-paths: [seeds]\n"
    )
    (folder / "profiles.yml").write_text(
        "sample:\n  target: dev\n  outputs:\n    dev:\n      type: duckdb\n      path: /root/target/warehouse.duckdb\n"
    )
    (folder / "seeds/customers.csv").write_text("id,name\n1,Ada\n2,Grace\n")
    (folder / "models/counted.sql").write_text(
        "{{ config(materialized='table') }}\nselect count(*) as n from read_csv_auto('/root/dbt/seeds/customers.csv')\n"
    )
    (folder / "models/schema.yml").write_text(
        "version: 2\nmodels:\n  - name: counted\n    description: How many customers there are\n"
        "    columns:\n      - name: n\n        tests: [not_null]\n"
    )


def test_dbt_duckdb(own_platform: Platform, program: ProgramFinder, tmp_path: Path) -> None:
    platform, path = own_platform, program("examples/dbt_duckdb")
    dbt_project(tmp_path / "sample_proj_duckdb_s3")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(DBT_OF_ITS_TIME)
    platform.env["PIP_CONSTRAINT"] = str(constraints)
    store = ObjectStore(tmp_path / "s3.log", host="0.0.0.0")
    store.start()
    try:
        platform.env["INTERMODAL_HOST_PORTS"] = str(store.port)
        platform.env["INTERMODAL_CONTAINER_HOSTS"] = "s3.stand-in=host-gateway"
        platform.builds(
            "secret", "create", "modal-examples-aws-user", "AWS_REGION=us-east-1",
            f"AWS_ACCESS_KEY_ID={store.key_id}", f"AWS_SECRET_ACCESS_KEY={store.key}",
            f"AWS_ENDPOINT_URL=http://s3.stand-in:{store.port}",
        )  # fmt: skip
        out = platform.builds("run", path)
        assert "File 'sources/customers.parquet' uploaded successfully." in out
        assert out.count("PASS=1 WARN=0 ERROR=0") == 1, out[-4000:]  # run: the model
        assert out.count("PASS=3 WARN=0 ERROR=0") == 1, out[-4000:]  # build: seed, model, test
        assert "Catalog written to /root/target/catalog.json" in out
        assert store.s3.head_object(Bucket="modal-example-dbt-duckdb-s3", Key="sources/customers.parquet")
        names = {one["Filename"] for one in json.loads(platform.builds("volume", "ls", "dbt-target-vol", "--json"))}
        assert {"warehouse.duckdb", "catalog.json", "index.html"} <= names

        site = Site(platform.builds("deploy", path))
        assert "<title>dbt Docs</title>" in site.get("serve_dbt_docs", "/").text
        assert "How many customers there are" in site.get("serve_dbt_docs", "/manifest.json").text
    finally:
        store.stop()


# -- pushgateway


class Releases(http.server.BaseHTTPRequestHandler):
    """github.com, as far as this program asks it."""

    archive: Path

    def do_GET(self) -> None:
        found = self.path.endswith("/pushgateway-1.9.0.linux-amd64.tar.gz")
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(self.archive.stat().st_size if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(self.archive.read_bytes())

    def log_message(self, *_args: object) -> None:
        pass


@contextlib.contextmanager
def trusting(platform: Platform, certificate: bytes, folder: Path) -> Iterator[None]:
    """Start the platform where this authority is among the machine's own: `wget` asks no variable."""
    anchors = folder / "anchors"
    shutil.copytree("/usr/local/share/ca-certificates", anchors)
    (anchors / "stand-in.crt").write_bytes(certificate)
    script = 'mount --bind "$0" /usr/local/share/ca-certificates && exec "$@"'
    command = ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", script, str(anchors)]
    up = subprocess.run(
        [*command, *platform.command("intermodal", "up")], env=platform.env, capture_output=True, text=True, check=False
    )
    assert up.returncode == 0, up.stdout + up.stderr
    yield


@needs_310
def test_pushgateway(program: ProgramFinder, tmp_path: Path) -> None:
    import trustme

    path, folder = program("examples/pushgateway"), tmp_path / "pushgateway-1.9.0.linux-amd64"
    subprocess.run(["apt-get", "download", "-q", "prometheus-pushgateway"], cwd=tmp_path, check=True, timeout=100)
    (package,) = tmp_path.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, tmp_path / "root"], check=True)
    folder.mkdir()
    shutil.copy(tmp_path / "root/usr/bin/prometheus-pushgateway", folder / "pushgateway")
    archive = tmp_path / "release.tar.gz"
    subprocess.run(["tar", "czf", archive, "-C", tmp_path, folder.name], check=True)
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("github.com").configure_cert(tls)
    handler = type("TheseReleases", (Releases,), {"archive": archive})
    with serving(443, handler, tls), new_platform() as platform:
        port = platform.open_port
        gateway = f"{getpass.getuser()}--example-pushgateway-serve.apps.stand-in"  # containers have no DNS of this site
        platform.env |= {
            "INTERMODAL_HOST_PORTS": f"443,{port}",
            "INTERMODAL_CONTAINER_HOSTS": f"github.com=host-gateway {gateway}=host-gateway",
            "INTERMODAL_WEB_LISTEN": f"0.0.0.0:{port}",
            "INTERMODAL_WEB_DOMAIN": f"http://apps.stand-in:{port}",
        }
        with trusting(platform, authority.cert_pem.bytes(), tmp_path):
            site = Site(platform.builds("deploy", path))
            said = {site.get("ExampleClientApplication.hello", "/").json() for _ in range(3)}
            assert all(re.fullmatch(r"Hello world from ta-\w+!", one) for one in said), said
            names = {re.findall(r"ta-\w+", one)[0] for one in said}
            metrics = site.get("serve", "/metrics").text
            counted = re.findall(
                r'^hello_counter_total\{instance="([^"]+)",job="hello"\} (\S+)$', metrics, re.MULTILINE
            )
            assert sum(float(value) for _name, value in counted) == 3, metrics
            assert {name for name, _value in counted} == names
            # The gateway goes on while each client takes back what it has pushed: exit hooks run at scale-down.
            for name in names:
                assert platform.modal("container", "stop", name).code == 0
            gone = time.monotonic() + 200
            while any(name in site.get("serve", "/metrics").text for name in names):
                assert time.monotonic() < gone, "metrics of ended containers are still there"
                time.sleep(0.2)
