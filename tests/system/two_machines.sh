#!/bin/bash
# Two machines on one, as root on Linux: `two_machines.sh up`, `down`, and `two_machines.sh K COMMAND…` on machine K.
# They are network namespaces joined by a cable, with host names of their own: node0 (10.78.0.1) and node1 (10.78.0.2).
set -euo pipefail
case $1 in
    up)
        for k in 0 1; do
            ip netns add lab-machine$k && ip -n lab-machine$k link set lo up
            mkdir -p /etc/netns/lab-machine$k
            printf '127.0.0.1 localhost\n10.78.0.1 node0\n10.78.0.2 node1\n' > /etc/netns/lab-machine$k/hosts
        done
        ip link add eth0 netns lab-machine0 type veth peer name eth0 netns lab-machine1
        for k in 0 1; do
            ip -n lab-machine$k addr add 10.78.0.$((k + 1))/24 dev eth0 && ip -n lab-machine$k link set eth0 up
        done
        ;;
    down) for k in 0 1; do ip netns del lab-machine$k 2> /dev/null || true; rm -rf /etc/netns/lab-machine$k; done ;;
    *) exec ip netns exec "lab-machine$1" unshare --uts bash -c "hostname node$1"'; exec "$@"' _ "${@:2}" ;;
esac
