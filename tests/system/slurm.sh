#!/bin/bash
# A SLURM of two nodes, for test_slurm.py: as root on Debian, `tests/system/slurm.sh`; with `down` it ends.
# Each node is a slurmd in a network namespace with a host name of its own; a bridge joins them to the controller.
set -euo pipefail
state=/tmp/lab-slurm
nodes=(node0 node1)
if [ "${1:-up}" = down ]; then
    for file in $state/*.pid; do kill "$(cat "$file")" 2> /dev/null || true; done
    for node in "${nodes[@]}"; do ip netns del "lab-$node" 2> /dev/null || true; done
    ip link del lab-slurm 2> /dev/null || true
    exit 0
fi
mkdir -p $state/state
command -v slurmctld ip > /dev/null ||
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge iproute2
host=$(hostname -s)
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 2048 - 512))
cat > /etc/slurm/slurm.conf << END
ClusterName=lab
SlurmctldHost=$host(10.79.0.254)
SlurmUser=root
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
StateSaveLocation=$state/state
SlurmdSpoolDir=$state/spool-%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd-%n.log
NodeName=node0 NodeAddr=10.79.0.1 CPUs=$(nproc) RealMemory=$memory
NodeName=node1 NodeAddr=10.79.0.2 CPUs=$(nproc) RealMemory=$memory
PartitionName=main Nodes=node0,node1 Default=YES
END
[ -s /etc/munge/munge.key ] || dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key status=none
chown -R munge:munge /etc/munge && chmod 400 /etc/munge/munge.key
install -d -o munge -g munge /run/munge
pgrep -x munged > /dev/null || su munge -s /bin/sh -c /usr/sbin/munged
if ! pgrep -x slurmctld > /dev/null; then
    printf '127.0.0.1 localhost\n10.79.0.254 %s\n10.79.0.1 node0\n10.79.0.2 node1\n' "$host" > $state/hosts
    ip link add lab-slurm type bridge && ip addr add 10.79.0.254/24 dev lab-slurm && ip link set lab-slurm up
    slurmctld
    for k in 0 1; do
        ip netns add lab-node$k && ip -n lab-node$k link set lo up
        ip link add lab-slurm$k type veth peer name eth0 netns lab-node$k && ip link set lab-slurm$k master lab-slurm up
        ip -n lab-node$k addr add 10.79.0.$((k + 1))/24 dev eth0 && ip -n lab-node$k link set eth0 up
        nsenter --net=/run/netns/lab-node$k unshare --uts --mount bash -c \
            "mount --bind $state/hosts /etc/hosts; hostname node$k; exec slurmd"
    done
fi
for _ in $(seq 50); do [ "$(sinfo -h -o '%D %T' 2> /dev/null)" = "2 idle" ] && break; sleep 0.2; done
sinfo
