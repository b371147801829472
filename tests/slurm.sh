#!/bin/bash
# A SLURM of one node, for tests/test_slurm.py: as root on Debian, `tests/slurm.sh`; `tests/slurm.sh down` ends it.
set -euo pipefail
state=/tmp/lab-slurm
mkdir -p $state/{state,spool}
if [ "${1:-up}" = down ]; then
    for daemon in slurmctld slurmd; do kill "$(cat $state/$daemon.pid)" 2> /dev/null || true; done
    exit 0
fi
command -v slurmctld > /dev/null || apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
host=$(hostname -s)
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 1024))
cat > /etc/slurm/slurm.conf << END
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
StateSaveLocation=$state/state
SlurmdSpoolDir=$state/spool
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory
PartitionName=main Nodes=$host Default=YES
END
[ -s /etc/munge/munge.key ] || dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key status=none
chown -R munge:munge /etc/munge && chmod 400 /etc/munge/munge.key
install -d -o munge -g munge /run/munge
pgrep -x munged > /dev/null || su munge -s /bin/sh -c /usr/sbin/munged
pgrep -x slurmctld > /dev/null || slurmctld
pgrep -x slurmd > /dev/null || slurmd
for _ in $(seq 50); do [ "$(sinfo -h -o %T 2> /dev/null)" = idle ] && break; sleep 0.2; done
sinfo
