.PHONY: up down status test fast lint simulate proto venv

up down status test fast lint simulate:
	@./raftsman $@

proto:
	@.ci/stubs
