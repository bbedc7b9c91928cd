#!/bin/sh
# The smallest pod network, for tests: a veth to the node with an address of its own; also stands in for loopback.
set -eu
exec 2>>"${0%/*}/../cni.log"
case "${0##*/}:$CNI_COMMAND" in
*:VERSION)
  echo '{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}'
  exit ;;
loopback:ADD)
  nsenter --net="$CNI_NETNS" ip link set lo up
  echo '{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "127.0.0.1/8"}]}'
  exit ;;
loopback:*) exit ;;
esac
short=$(echo "$CNI_CONTAINERID" | cut -c1-10)
state=${0%/*}/../state
mkdir -p "$state"
case "$CNI_COMMAND" in
ADD)
  exec 9>"$state/lock"
  flock 9
  number=$(($(cat "$state/last" 2>/dev/null || echo 9) + 1))
  echo "$number" >"$state/last"
  address=10.88.$((number / 200)).$((number % 200 + 10))
  ip link add "v$short" type veth peer name "p$short"
  ip link set "v$short" up
  ip link set "p$short" netns "${CNI_NETNS##*/}" 2>/dev/null || {
    exec 8<"$CNI_NETNS"
    ip link set "p$short" netns /proc/self/fd/8
  }
  inside="nsenter --net=$CNI_NETNS"
  $inside ip link set "p$short" name "$CNI_IFNAME"
  $inside ip link set lo up
  $inside ip address add "$address/32" dev "$CNI_IFNAME"
  $inside ip link set "$CNI_IFNAME" up
  $inside ip route add 169.254.1.1 dev "$CNI_IFNAME" scope link
  $inside ip route add default via 169.254.1.1 dev "$CNI_IFNAME"
  ip address add 169.254.1.1/32 dev "v$short"
  ip route replace "$address" dev "v$short"
  echo "{\"cniVersion\": \"0.4.0\", \"ips\": [{\"version\": \"4\", \"address\": \"$address/32\"}],"
  echo " \"interfaces\": [{\"name\": \"$CNI_IFNAME\", \"sandbox\": \"$CNI_NETNS\"}]}" ;;
DEL)
  ip link del "v$short" 2>/dev/null || true ;;
esac
