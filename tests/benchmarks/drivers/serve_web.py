"""Ray Serve with the web app: `serve_web.py PORT FOLDER`."""

import sys
import time

import ray
from ray import serve
from web_app import web_app


@serve.deployment(num_replicas=1, max_ongoing_requests=4000, ray_actor_options={"num_cpus": 1})
@serve.ingress(web_app)
class Web:
    pass


ray.init(num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[2], log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, proxy_location="HeadOnly")
serve.run(Web.bind())
print("serves", flush=True)
time.sleep(3600)
