/** What a Xen host of the lab does from its first program on: texts that go into its image. */

/** Before dom0's own file system is there: loads what it lies on, and changes into it. */
export const firstProgram = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
while read -r module; do /bin/busybox insmod "/modules/$module"; done < /modules/order
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do
  /bin/busybox usleep 50000
  tries=$((tries + 1))
done
/bin/busybox mount -t ext4 -o noatime /dev/vda /root
/bin/busybox umount /proc
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /bin/busybox init
`

/** busybox's init starts the shell by which the lab gives its commands again whenever it ends. */
export const inittab = `::sysinit:/lab/begin
::respawn:/usr/bin/socat -lf /var/log/shell.log TCP-LISTEN:2222,fork,reuseaddr,backlog=64 EXEC:/lab/shell,nofork
`

/** One command for each connection: its first line, in base64; what follows is the command's input. */
export const shell = `#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
IFS= read -r line
exec bash -c "$(base64 -d <<< "$line")"
`

/**
 * There is no udev and no systemd. \`eth0\` leads to the machine that the lab runs on (10.0.2.2), \`eth1\` to the other
 * host; \`lab.number\` on the kernel's command line says which of them this is, \`lab.name\` what it is called, and
 * \`lab.share\` where the lab's folder lies: on both sides under the same path.
 */
export const begin = `#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm /run/lock
# Without these \`xl save GUEST /dev/stdout\` makes a plain file in /dev.
ln -s /proc/self/fd /dev/fd
for nth in 0:stdin 1:stdout 2:stderr; do ln -s "fd/\${nth%:*}" "/dev/\${nth#*:}"; done
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
for word in $(< /proc/cmdline); do
  case $word in
    lab.number=*) number=\${word#*=} ;;
    lab.name=*) name=\${word#*=} ;;
    lab.share=*) share=\${word#*=} ;;
  esac
done
busybox hostname "$name"
echo "127.0.0.1 localhost $name" > /etc/hosts
modprobe -a virtio_net xenfs xen-evtchn xen-gntdev xen-gntalloc xen-privcmd 9pnet_virtio 9p
modprobe -a bridge xen-blkback xen-netback
mount -t xenfs xenfs /proc/xen
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
ip link set eth1 mtu 9000
ip link set eth1 up
ip addr add "192.168.77.$number/24" dev eth1
ip link add br0 type bridge
ip link set br0 up
ip addr add 10.7.7.1/24 dev br0
mkdir -p "$share"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share "$share"
xen=$(echo /usr/lib/xen-4*/bin)
mkdir -p /run/xenstored /run/xen /var/log/xen/console /var/lib/xen
"$xen/xenstored" --pid-file /run/xenstored.pid
for try in $(seq 100); do
  xenstore-read / > /dev/null 2>&1 && break
  sleep 0.05
done
"$xen/xen-init-dom0"
# A guest that is copied must not hold up what copies it.
xl sched-credit2 -d 0 -w 4096
"$xen/xenconsoled" --log=guest --timestamp=guest --log-dir=/var/log/xen/console --pid-file=/run/xenconsoled.pid
# Two hosts of one image must not look like one to libvirt.
sed -i "s/HOST/00000000-0000-4000-8000-00000000000$number/" /etc/libvirt/libvirtd.conf
touch /run/lab.ready
`

/** What libvirtd reads, where a test starts it. */
export const libvirtd = `listen_tls = 0
auth_unix_rw = "none"
unix_sock_group = "root"
host_uuid = "HOST"
log_outputs = "3:file:/var/log/libvirtd.log"
`

/**
 * The guest's first program counts, twice a second at most, and says with each count whether some of its
 * memory is still what it was. Other memory it changes without rest. Where it has a disk, each count is written to it, and
 * is there at the next one.
 */
export const guestProgram = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin
exec < /dev/hvc0 > /dev/hvc0 2>&1
for module in /modules/*.ko; do insmod $module; done
mkdir /memory
mount -t tmpfs memory /memory
dd if=/dev/urandom of=/memory/kept bs=4096 count=16 2> /dev/null
kept=$(md5sum < /memory/kept)
ip link set eth0 up 2> /dev/null && ip addr add 10.7.7.2/24 dev eth0
count=0
disk=none
while :; do
  dd if=/dev/urandom of=/memory/changed bs=4096 count=4 2> /dev/null
  [ "$(md5sum < /memory/kept)" = "$kept" ] && memory=right || memory=wrong
  if [ -b /dev/xvda ]; then
    echo 1 > /proc/sys/vm/drop_caches
    [ $disk = none ] || { read -r on < /dev/xvda; [ "$on" = $((count - 1)) ] && disk=right || disk=wrong; }
    echo $count | dd of=/dev/xvda bs=512 conv=sync,fsync 2> /dev/null && [ $disk = none ] && disk=right
  fi
  echo "count $count memory $memory disk $disk"
  count=$((count + 1))
  usleep 400000
done
`
