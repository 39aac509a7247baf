# Shared by up, down and enter: where the cluster's state is, how its processes are started and stopped.
# shellcheck shell=bash
set -euo pipefail
set -E
trap 'echo "${0##*/}: line $LINENO failed: $BASH_COMMAND" >&2' ERR
# shellcheck disable=SC2034 # for those that read this file
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH="$PATH:/usr/sbin:/sbin"

cluster=${TENURE_CLUSTER:-tenure}
[[ $cluster =~ ^[a-z][a-z0-9-]{0,20}$ ]] || { echo "TENURE_CLUSTER must be a short lower-case name, not \`$cluster\`" >&2; exit 2; }
state="${TENURE_CACHE:-$HOME/.cache/tenure}/run/$cluster"
kubeconfig="$state/kubeconfig"
pki=$state/pki

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

# $bin is set by those that read this file: the folder of the cluster's programs.
# shellcheck disable=SC2154
kubectl() { inside "$bin/kubectl" --kubeconfig "$kubeconfig" "$@"; }

# sign NAME SUBJECT [SAN]: a certificate of the cluster's authority, unless it is there.
sign() {
    [[ -e $pki/$1.crt ]] && return
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$pki/$1.key" -subj "$2" -out "$pki/$1.csr" 2>/dev/null
    openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -set_serial "0x$(openssl rand -hex 8)" -days 3650 -out "$pki/$1.crt.new" \
        -extfile <(printf 'keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}") 2>/dev/null
    mv "$pki/$1.crt.new" "$pki/$1.crt"
}

# config_for NAME FILE: a kubeconfig with that certificate.
config_for() {
    cat >"$2" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: $cluster, cluster: {server: "https://$(address):$(port 6443)", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}}]
contexts: [{name: $cluster, context: {cluster: $cluster, user: $1}}]
current-context: $cluster
YAML
    chmod 600 "$2"
}

# start NAME PROGRAM ARGS...: in the cluster's network, detached from this shell. The recorded pid is the program's own.
start() {
    local name=$1
    shift
    local enter=()
    isolated && enter=(nsenter "--net=/run/netns/$cluster")
    # setsid forks when it leads a group, so the pid is written by the process that becomes the program.
    rm -f "$state/pid/$name"
    # shellcheck disable=SC2016
    setsid --fork bash -c 'echo $$ >"$1"; shift; exec "$@"' start "$state/pid/$name" "${enter[@]}" "$@" \
        </dev/null >>"$state/log/$name" 2>&1 9>&- 8>&-
    until [[ -s $state/pid/$name ]]; do sleep 0.02; done
}

# Is the program that was recorded under this name still running? A pid that was used again for something else is not it.
alive() {
    local pid
    pid=$(cat "$state/pid/$1" 2>/dev/null) || return 1
    [[ -n $pid ]] && grep -qszF -e "$state" -e "$bin" "/proc/$pid/cmdline"
}

# stop NAME...: kills, and waits until they are gone. Nothing is asked first: what they would save is deleted with the state.
stop() {
    local name
    for name in "$@"; do
        if alive "$name"; then kill -9 "$(cat "$state/pid/$name")" 2>/dev/null || true; fi
    done
    for name in "$@"; do
        while alive "$name"; do sleep 0.02; done
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

# The cgroups of a real node: one in each hierarchy, or the one of cgroup v2.
node_cgroups() {
    local folder
    for folder in /sys/fs/cgroup/*/"$cluster-$1" /sys/fs/cgroup/"$cluster-$1"; do [[ ! -d $folder ]] || echo "$folder"; done
}

# The pids that name this path on their command line. (The path is not on grep's own.)
naming() { { grep -lszF -f <(printf %s "$1") /proc/[0-9]*/cmdline || true; } | cut -d/ -f3; }

# The pids in the cgroups of a real node: its containers.
contained() {
    local group
    for group in $(node_cgroups "$1"); do find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null || true; done
}

# The pids of a real node: its containers, and the programs that name its folder. Those are in the cgroup of their starter;
# a shim names the socket.
node_pids() {
    local pid
    {
        contained "$1"
        for pid in $(naming "$state/node/$1/"); do
            [[ $(tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | head -1) =~ (^|/)(containerd|containerd-shim-runc-v2|kubelet|kube-proxy|runc)$ ]] && echo "$pid"
        done
    } | sort -un || true
}

# What of a real node outlives a kill: containers, shims, mounts, cgroups, and what its programs write to fixed places.
clean_node() {
    local node=$1 group pid at link
    stop "kube-proxy-$node" "kubelet-$node" "containerd-$node"
    for _ in $(seq 50); do
        [[ -n $(node_pids "$node") ]] || break
        for pid in $(node_pids "$node"); do kill -9 "$pid" 2>/dev/null || true; done
        sleep 0.1
    done
    for _ in 1 2 3; do
        awk -v at="$state/node/$node/" 'index($2, at) == 1 {print $2}' /proc/mounts | sort -r | while read -r at; do umount -l "$at" 2>/dev/null || true; done
    done
    for group in $(node_cgroups "$node"); do
        for _ in $(seq 50); do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
    done
    for link in /var/log/containers/*; do
        [[ $(readlink "$link") != "$state/node/$node/"* ]] || rm -f "$link"
    done
    { grep -ls -- "$state/node/$node/" /var/lib/cni/results/* || true; } | xargs -r rm -f
    rmdir "/var/lib/kubelet/device-plugins/$cluster-$node" 2>/dev/null || true
    rm -rf "/run/tenure/$cluster-$node" "$state/node/$node"
}

# A kubelet sets these to its liking and never sets them back.
kernel_settings=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes)
remember_kernel_settings() {
    local setting
    [[ ! -e ${state%/*}/.kernel-settings ]] || return 0
    for setting in "${kernel_settings[@]}"; do echo "$setting $(cat "/proc/sys/$setting")"; done >"${state%/*}/.kernel-settings"
}
restore_kernel_settings() {
    local setting value
    [[ -e ${state%/*}/.kernel-settings ]] && ! compgen -G "${state%/*}/*/node/real-*" >/dev/null || return 0
    while read -r setting value; do echo "$value" >"/proc/sys/$setting" 2>/dev/null || true; done <"${state%/*}/.kernel-settings"
    rm -f "${state%/*}/.kernel-settings"
}

real_nodes() { (cd "$state/node" 2>/dev/null && ls -d real-* 2>/dev/null) || true; }

# Takes down what there is; safe to call on anything.
clean_all() {
    local node
    for node in $(real_nodes); do clean_node "$node"; done
    stop kwok kube-scheduler kube-controller-manager kube-apiserver etcd
    if [[ -e /run/netns/$cluster ]]; then ip netns delete "$cluster"; fi
    # The controller manager's volumes are folders outside the state. Their names are in the store, whoever is dead.
    { grep -rahoE '/tmp/hostpath_pv/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' "$state/etcd" 2>/dev/null || true; } | sort -u | xargs -r rm -rf
    rm -rf "$state"
    restore_kernel_settings
}
