#!/bin/bash
# A real S3 server for the tests: one Ceph monitor, one in-memory OSD and a RADOS gateway on loopback, out of Debian's
# packages, unpacked into a folder of ours. Nothing is installed into the system and no root rights are needed.
#
#   server.sh install PACKAGES                          download and unpack (66 MB, once; a second call does nothing)
#   server.sh serve PACKAGES RUN GATEWAY_PORT MON_PORT  start (12 s), say READY, serve until stdin ends, stop
#   server.sh stop-gateway RUN                          an outage: the S3 server ends, its data live on
#   server.sh start-gateway PACKAGES RUN                the end of it
#
# Keys: testkey / testsecret; a second user: otherkey / othersecret. Objects live in memory and end with the server.
set -euo pipefail

fail() { echo "server.sh: $*" >&2; exit 1; }

install_packages() {
  [ -e "$packages/complete" ] && return
  command -v apt-get >/dev/null || fail "needs Debian's or Ubuntu's apt-get to fetch radosgw; not found"
  rm -rf "$root"
  mkdir -p "$packages"/{lists,archives}/partial "$root"
  # Lists and archives of our own: apt then works for every user and leaves the system's state alone.
  local apt=(apt-get -qq -o Dir::State::lists="$packages/lists" -o Dir::Cache="$packages"
    -o Dir::Cache::archives="$packages/archives" -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)")
  "${apt[@]}" update || fail "apt-get update failed; the package lists are needed once"
  "${apt[@]}" install -y --reinstall --download-only --no-install-recommends \
    radosgw ceph-mon ceph-osd ceph-common >"$packages/apt.log" 2>&1 || fail "download failed: see $packages/apt.log"
  for deb in "$packages"/archives/*.deb; do dpkg -x "$deb" "$root"; done
  rm -rf "$packages"/{lists,archives,pkgcache.bin,srcpkgcache.bin}
  touch "$packages/complete"
}

use_packages() {
  [ -e "$packages/complete" ] || fail "$packages holds no installation: run $0 install $packages"
  local libraries
  libraries=$(echo "$root"/usr/lib/*-linux-gnu)
  export LD_LIBRARY_PATH=$libraries:$root/lib/${libraries##*/}:$libraries/ceph
  export PATH=$root/usr/bin:$PATH PYTHONPATH=$root/usr/lib/python3/dist-packages CEPH_CONF=$run/ceph.conf
  python=/usr/bin/python3 # Ceph's own modules are built for Debian's Python; apt brings it where it is absent
  [ -x "$python" ] || python=$root/usr/bin/python3
}

write_config() {
  cat >"$run/ceph.conf" <<END
[global]
fsid = $1
mon host = v2:127.0.0.1:$mon_port
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms client mode = crc
ms cluster mode = crc
ms service mode = crc
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
mon data = $run/mon
mon data avail warn = 1
mon data avail crit = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
osd data = $run/osd
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
osd memory target = 939524096
memstore device bytes = 4294967296
osd class dir = $(echo "$root"/usr/lib/*-linux-gnu)/rados-classes
plugin dir = $(echo "$root"/usr/lib/*-linux-gnu)/ceph
erasure code dir = $(echo "$root"/usr/lib/*-linux-gnu)/ceph/erasure-code
run dir = $run
crash dir = $run
pid file = $run/\$name.pid
log file = $run/log/\$name.log
admin socket =
[client.rgw]
rgw data = $run/rgw
rgw frontends = beast endpoint=127.0.0.1:$gateway_port tcp_nodelay=1
rgw enable usage log = false
rgw gc max objs = 8
rgw lc max objs = 8
rgw thread pool size = 64
END
}

start_cluster() {
  local fsid osd
  mkdir -p "$run"/{mon,osd,rgw,log}
  fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
  write_config "$fsid"
  monmaptool --create --fsid "$fsid" --addv a "v2:127.0.0.1:$mon_port" "$run/monmap"
  ceph-mon --mkfs -i a --monmap "$run/monmap"
  ceph-mon -i a
  timeout 60 "$python" "$root/usr/bin/ceph" osd new "$osd" 0
  ceph-osd -i 0 --mkfs --osd-uuid "$osd"
  ceph-osd -i 0
  ceph-authtool --create-keyring "$run/rgw/keyring" --gen-key -n client.rgw
}

start_gateway() { radosgw -n client.rgw --keyring "$run/rgw/keyring"; }

check_gateway() { # it goes into the background before it has written its id and taken its port
  local pid i
  for i in $(seq 100); do
    pid=$(cat "$run/client.rgw.pid" 2>/dev/null) && break # removed again by a gateway that ends in order
    sleep 0.1
  done
  running "${pid:-none}" || { echo "the gateway ended; is port $gateway_port taken?"; return 1; }
}

add_user() {
  timeout 60 radosgw-admin -n client.rgw --keyring "$run/rgw/keyring" user create \
    --uid="$1" --display-name="$1" --access-key="$1key" --secret-key="$1secret"
}

running() { # PID: a container's first process may never reap it; without a command line it is gone for our ends
  [ -n "$(tr -d '\0' 2>/dev/null <"/proc/$1/cmdline")" ]
} 2>/dev/null

stop_daemon() { # NAME SIGNAL: only the process whose id this run's own daemon wrote down
  local pid
  pid=$(cat "$run/$1.pid" 2>/dev/null) || return 0
  kill "$2" "$pid" 2>/dev/null || true
  while running "$pid"; do sleep 0.05; done
  rm -f "$run/$1.pid"
}

stop_all() { for name in client.rgw osd.0 mon.a; do stop_daemon "$name" -KILL; done; }

absolute() { mkdir -p "$1" && cd "$1" && pwd; }

command=${1:-}
case $command in
install)
  packages=$(absolute "${2:?PACKAGES}") root=$packages/root
  install_packages ;;
serve)
  packages=$(absolute "${2:?PACKAGES}") root=$packages/root run=$(absolute "${3:?RUN}") gateway_port=${4:?PORT} mon_port=${5:?PORT}
  use_packages
  trap stop_all EXIT
  set +e # and on again inside: bash ignores it in everything that stands before a ||
  (set -e; start_cluster; start_gateway; check_gateway; add_user test; add_user other; check_gateway) >"$run/start.log" 2>&1 </dev/null
  started=$?
  set -e
  [ "$started" = 0 ] || { tail -20 "$run/start.log" >&2; fail "Ceph did not start; its logs are in $run"; }
  echo "READY http://127.0.0.1:$gateway_port"
  cat >/dev/null ;; # until the caller closes its end, be it by dying
stop-gateway)
  run=$(absolute "${2:?RUN}")
  # not -KILL: the OSD would wait half a minute for the dead gateway's watches before the next bucket can be made
  stop_daemon client.rgw -TERM ;;
start-gateway)
  packages=$(absolute "${2:?PACKAGES}") root=$packages/root run=$(absolute "${3:?RUN}")
  use_packages
  start_gateway >>"$run/start.log" 2>&1 </dev/null ;;
*) sed -n 2,11p "$0" >&2; exit 2 ;;
esac
