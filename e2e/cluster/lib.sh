# Shared by up, down and enter: where the cluster's state is, how its processes are started and stopped.
# shellcheck shell=bash
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH="$PATH:/usr/sbin:/sbin"

cluster=${TENURE_CLUSTER:-tenure}
[[ $cluster =~ ^[a-z][a-z0-9-]{0,20}$ ]] || { echo "TENURE_CLUSTER must be a short lower-case name, not \`$cluster\`" >&2; exit 2; }
state="${TENURE_CACHE:-$HOME/.cache/tenure}/run/$cluster"
kubeconfig="$state/kubeconfig"

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# With root and namespaces the cluster has a network of its own; else its control plane is on loopback.
isolated() { [[ -e $state/isolated ]]; }
can_isolate() { [[ $(id -u) -eq 0 ]] && unshare --net true 2>/dev/null && command -v ip >/dev/null; }

# Runs a command in the cluster's network. Not `ip netns exec`: that remounts /sys, and a kubelet then finds no cgroups.
inside() { if isolated; then nsenter --net="/run/netns/$cluster" "$@"; else "$@"; fi; }

address() { if isolated; then echo 10.99.0.1; else echo 127.0.0.1; fi; }
# On loopback each cluster has ports of its own, derived from its name.
port() {
    local base=0
    isolated || base=$(($(printf %s "$cluster" | cksum | cut -d' ' -f1) % 200 * 20))
    echo $((base + $1 + (base > 0 ? 20000 : 0)))
}

kubectl() { inside "$bin/kubectl" --kubeconfig "$kubeconfig" "$@"; }

# start NAME PROGRAM ARGS...: in the cluster's network, detached from this shell. The recorded pid is the program's own.
start() {
    local name=$1
    shift
    local enter=()
    isolated && enter=(nsenter "--net=/run/netns/$cluster")
    # setsid forks when it leads a group, so the pid is written by the process that becomes the program.
    setsid --fork bash -c 'echo $$ >"$1"; shift; exec "$@"' start "$state/pid/$name" "${enter[@]}" "$@" \
        </dev/null >>"$state/log/$name" 2>&1 9>&- 8>&-
    until [[ -s $state/pid/$name ]]; do sleep 0.02; done
}

# Is the program that was recorded under this name still running? A pid that was used again for something else is not it.
alive() {
    local pid
    pid=$(cat "$state/pid/$1" 2>/dev/null) || return 1
    [[ -n $pid && -r /proc/$pid/cmdline ]] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- "$state\|$bin"
}

# stop NAME...: asks, waits, insists.
stop() {
    local name pid
    for name in "$@"; do
        if alive "$name"; then kill "$(cat "$state/pid/$name")" 2>/dev/null || true; fi
    done
    for name in "$@"; do
        for _ in $(seq 100); do
            alive "$name" || break
            sleep 0.1
        done
        if alive "$name"; then
            pid=$(cat "$state/pid/$name")
            kill -9 "$pid" 2>/dev/null || true
        fi
        rm -f "$state/pid/$name"
    done
}

# until_ok SECONDS WHAT COMMAND...: polls a command that has no watch of its own.
until_ok() {
    local seconds=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [[ $SECONDS -lt $end ]] || die "$what is not up after $seconds s; see $state/log"
        sleep 0.1
    done
}

# Everything of the real nodes that outlives a kill: containers, mounts, cgroups.
clean_node() {
    local node=$1 group pid
    stop "kube-proxy-$node" "kubelet-$node" "containerd-$node"
    for group in /sys/fs/cgroup/*/"$cluster-$node" /sys/fs/cgroup/"$cluster-$node"; do
        [[ -d $group ]] || continue
        while read -r pid; do kill -9 "$pid" 2>/dev/null || true; done < <(find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null)
    done
    # Shims are in the cgroup of their starter; they name our socket on their command line.
    for pid in $(grep -lsz -- "$state/node/$node/" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do
        [[ $pid == "$$" ]] || kill -9 "$pid" 2>/dev/null || true
    done
    for _ in 1 2 3; do
        awk -v at="$state/node/$node/" 'index($2, at) == 1 {print $2}' /proc/mounts | sort -r | while read -r at; do umount -l "$at" 2>/dev/null || true; done
    done
    for group in /sys/fs/cgroup/*/"$cluster-$node" /sys/fs/cgroup/"$cluster-$node"; do
        [[ -d $group ]] || continue
        for _ in $(seq 50); do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
    done
    rm -rf "$state/node/$node"
}

real_nodes() { (cd "$state/node" 2>/dev/null && ls -d real-* 2>/dev/null) || true; }

# Takes down what there is; safe to call on anything.
clean_all() {
    local node
    for node in $(real_nodes); do clean_node "$node"; done
    stop kwok kube-scheduler kube-controller-manager kube-apiserver etcd
    if [[ -e /run/netns/$cluster ]]; then ip netns delete "$cluster"; fi
    rm -rf "$state"
}
