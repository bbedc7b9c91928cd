.PHONY: up down status test fast lint proto venv

up down status test fast lint:
	@./raftsman $@

proto:
	@.ci/stubs
