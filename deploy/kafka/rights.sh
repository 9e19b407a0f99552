#!/bin/sh
# Grants the rights that tokentrace needs on a Kafka with access control lists, and no more: those of docs/deploy.md.
#
#   rights.sh PRINCIPAL ROLE... -- OPTIONS OF kafka-acls.sh
#   rights.sh User:tokentrace worker alerts -- --bootstrap-server kafka:9093 --command-config admin.properties
#
#   worker       counts, with exactly-once commits
#   deduplicate  as well, with worker.deduplicate
#   alerts       as well, with alerts
#   budgets      as well, with budgets
#   ledger       keeps the ledger, in a worker or by ledger run
#   dlq          the commands dlq list and dlq show
#   dlq-replay   the command dlq replay
#   state        the commands state show, alerts list and budgets list
#
# Environment: TOPIC (llm-spans), DEAD_LETTERS (<topic>.dead-letters), GROUP (tokentrace), REPLICAS, with which the
# replica_id of every replica begins (tokentrace-), KAFKA_ACLS (kafka-acls.sh), and DRY_RUN=1 to print the commands alone.
set -eu

usage() {
  echo "usage: rights.sh PRINCIPAL ROLE... -- OPTIONS OF kafka-acls.sh" >&2
  echo "roles: worker deduplicate alerts budgets ledger dlq dlq-replay state" >&2
  exit 2
}

[ $# -ge 2 ] || usage
principal=$1
shift
case $principal in
  *:?*) ;;
  *) echo "rights.sh: the principal is User:NAME, not $principal" >&2; exit 2 ;;
esac

topic=${TOPIC:-llm-spans}
dead_letters=${DEAD_LETTERS:-$topic.dead-letters}
group=${GROUP:-tokentrace}
replicas=${REPLICAS:-tokentrace-}

roles=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    worker | deduplicate | alerts | budgets | ledger | dlq | dlq-replay | state) roles="$roles $1" ;;
    *) echo "rights.sh: there is no role $1" >&2; usage ;;
  esac
  shift
done
[ -n "$roles" ] || usage
[ $# -eq 0 ] || shift

# grant OPERATIONS KIND NAME PATTERN OPTIONS...: KIND as kafka-acls.sh calls it.
grant() {
  operations=$1 kind=$2 name=$3 pattern=$4
  shift 4
  for operation in $operations; do
    set -- "$@" --operation "$operation"
  done
  set -- "$@" --add --force --allow-principal "$principal" "--$kind" "$name" --resource-pattern-type "$pattern"
  if [ "${DRY_RUN:-}" = 1 ]; then
    echo "${KAFKA_ACLS:-kafka-acls.sh} $*"
  else
    "${KAFKA_ACLS:-kafka-acls.sh}" "$@"
  fi
}

for role in $roles; do
  case $role in
    worker)
      grant "Read DescribeConfigs" topic "$topic" literal "$@"
      grant "Create Write DescribeConfigs" topic "$dead_letters" literal "$@"
      grant "Create Read Write DescribeConfigs" topic "$group.state" literal "$@"
      grant "Create Write DescribeConfigs" topic "$group.rollups" literal "$@"
      grant "Read" group "$group" literal "$@"
      grant "Write" transactional-id "$group.$replicas" prefixed "$@"
      ;;
    deduplicate)
      grant "Create Read Write DescribeConfigs" topic "$group.ids" literal "$@"
      ;;
    alerts | budgets)
      grant "Read" topic "$group.rollups" literal "$@"
      grant "Create Read Write DescribeConfigs" topic "$group.alerts" literal "$@"
      grant "Read" group "$group.alerts" literal "$@"
      if [ "$role" = budgets ]; then
        grant "Create Read Write DescribeConfigs" topic "$group.budgets" literal "$@"
      fi
      ;;
    ledger)
      grant "Read" topic "$group.rollups" literal "$@"
      grant "Read" group "$group.ledger" literal "$@"
      ;;
    dlq)
      grant "Read" topic "$dead_letters" literal "$@"
      grant "Read" group "$group.dlq-replay" literal "$@"
      ;;
    dlq-replay)
      grant "Read" topic "$dead_letters" literal "$@"
      grant "Read" group "$group.dlq-replay" literal "$@"
      grant "Read Write" topic "$topic" literal "$@"
      grant "Write" transactional-id "$group.dlq-replay" literal "$@"
      ;;
    state)
      for own in state alerts budgets; do
        grant "Read" topic "$group.$own" literal "$@"
      done
      grant "Read" group "$group" literal "$@"
      ;;
  esac
done
