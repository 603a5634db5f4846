# A node of a Ray cluster that runs agegender; head and workers are the same image, GPU workers the other variant:
#
#     docker build --tag registry.example.com/agegender:0.1.0-ray2.60.0-cpu .
#     docker build --tag registry.example.com/agegender:0.1.0-ray2.60.0-gpu --build-arg VARIANT=gpu .
#
# A cluster that only scores and explores on CPUs needs no torch: --build-arg EXTRAS= leaves it out (docs/install.md).
#
# Keys to storage are never in it: nodes have a role, or the standard AWS variables (docs/s3.md).
ARG VARIANT=cpu
FROM rayproject/ray:2.60.0-py311-${VARIANT}
ARG EXTRAS=train

# Nothing reports home (docs/limits.md); agegender sets these itself, Ray's own processes start before it.
ENV ORT_DISABLE_TELEMETRY=1 RAY_USAGE_STATS_ENABLED=0

# A number, because Kubernetes cannot tell by a name that it is not root.
USER 1000:100
# Made before it becomes the working directory, so that it is this user's and not root's: the build writes to it.
RUN mkdir -p /home/ray/agegender /home/ray/.cache/agegender
WORKDIR /home/ray/agegender

COPY --chown=1000:100 pyproject.toml constraints.txt README.md LICENSE ./
# The face detector, if its file lies beside this one: no job downloads it then (docs/faces.md). [x]: it may be absent.
COPY --chown=1000:100 LICENSE face_detection_yunet_n_dynamic.onn[x] /home/ray/.cache/agegender/
COPY --chown=1000:100 agegender agegender
COPY --chown=1000:100 jobs jobs
RUN pip install --no-cache-dir --constraint constraints.txt uv \
    && uv pip install --system --no-cache --compile-bytecode --constraint constraints.txt ".[${EXTRAS}]" \
    && agegender --version
