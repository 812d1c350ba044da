"""Sampling on one, two and four devices, a process each: the same bits, compiled once.

How many devices a CPU is split into is fixed when JAX starts, hence the processes.
"""

import json
import os
import subprocess
import sys

import pytest

from ddpm_jax.parallel import THRESHOLD

SCRIPT = """
import hashlib, json, sys

import jax

jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))

import jax.numpy as jnp
import numpy as np

from ddpm_jax.networks.denoiser import Denoiser
from ddpm_jax.drawing import make_block_sampler
from ddpm_jax.diffusion.schedules import respace, sigmoid

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *args, **kwargs: compiled.append(event) if "compile" in event else None
)


def digests(blocks):
    return [hashlib.sha256(block.tobytes()).hexdigest() for block in np.asarray(blocks)]


network, key = Denoiser(), jax.random.key(1)
params = network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32))
draw = make_block_sampler(network.apply, respace(sigmoid(), 50), (500, 2))
results = {"devices": jax.device_count(), "first": digests(draw(params, key, 0, 8))}
results["compiled first"] = len(compiled)
results["second"] = digests(draw(params, key, 0, 8))
results["later"] = digests(draw(params, key, 3, 8))
on_last = jax.device_put((params, key), jax.devices()[-1])
results["from the last device"] = digests(draw(*on_last, 0, 8))
results["compiled later"] = len(compiled) - results["compiled first"]
results["five"] = digests(draw(params, key, 0, 5))
results["one"] = digests(draw(params, key, 0, 1))
print(json.dumps(results))
"""


def run(devices):
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(devices)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    return json.loads(output.stdout)


@pytest.fixture(scope="module")
def alone():
    return run(1)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_devices_change_neither_bits_nor_compilations(devices, alone):
    results = alone if devices == 1 else run(devices)
    assert results["devices"] == devices
    blocks = alone["first"]
    assert len(set(blocks)) == 8
    assert results["first"] == blocks
    assert results["second"] == blocks
    assert results["later"][:5] == blocks[3:]
    assert results["from the last device"] == blocks
    # Five are not a multiple of the devices, and one is a loop that XLA unrolls.
    assert results["five"] == blocks[:5]
    assert results["one"] == blocks[:1]
    assert results["compiled first"] > 0
    assert results["compiled later"] == 0


@pytest.mark.medium
@pytest.mark.parametrize(("said", "threshold"), [({}, 0), ({THRESHOLD: "7"}, 7)])
def test_a_cache_keeps_every_program_unless_the_user_says_otherwise(said, threshold, tmp_path):
    bare = {name: value for name, value in os.environ.items() if name != THRESHOLD}
    program = (
        "import jax\n"
        "from ddpm_jax.parallel import use_devices\n"
        "use_devices(1)\n"
        "print(jax.config.jax_persistent_cache_min_compile_time_secs)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=bare | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)} | said,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) == threshold
