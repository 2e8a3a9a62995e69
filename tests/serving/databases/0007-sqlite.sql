BEGIN TRANSACTION;
CREATE TABLE api_keys (
	sha256 VARCHAR(64) NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	revoked_at FLOAT, 
	PRIMARY KEY (sha256), 
	UNIQUE (id)
);
CREATE TABLE audit_log (
	number INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	actor VARCHAR(64) NOT NULL, 
	action VARCHAR(40) NOT NULL, 
	tenant VARCHAR(16) NOT NULL, 
	subject VARCHAR(100) NOT NULL, 
	PRIMARY KEY (number)
);
CREATE TABLE concept_shares (
	concept VARCHAR(64) NOT NULL, 
	shared_with VARCHAR(64) NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (concept, shared_with)
);
CREATE TABLE deliveries (
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	url VARCHAR(2000) NOT NULL, 
	body TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	next_at FLOAT, 
	delivered_at FLOAT, 
	error VARCHAR(500), 
	PRIMARY KEY (id)
);
INSERT INTO "deliveries" VALUES('evt_1664ae68b0d626fa63a0e8b004a74052','bob','https://example.com/hook','{"id": "evt_1664ae68b0d626fa63a0e8b004a74052", "object": "event", "type": "video.completed", "created_at": 1796132938, "data": {"id": "video_3dfd5f7c2ba77a8367fc43f3b9d1e046", "status": "completed"}}',0,1.79613293843421459195e+09,1.79613293843421459195e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_31fbf7e41a18a4af60b53cf0bc158007','bob','https://example.com/hook','{"id": "evt_31fbf7e41a18a4af60b53cf0bc158007", "object": "event", "type": "video.failed", "created_at": 1796132938, "data": {"id": "video_f56bb99ebe37be4199e18c94d4224b88", "status": "failed"}}',0,1.79613293848935651783e+09,1.79613293848935651783e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_3f6940390a87e10a0d7f43be6dc18595','bob','https://example.com/hook','{"id": "evt_3f6940390a87e10a0d7f43be6dc18595", "object": "event", "type": "video.cancelled", "created_at": 1796132938, "data": {"id": "video_95df201e6bea588f030997f455ccc9ca", "status": "cancelled"}}',0,1.79613293850951910015e+09,1.79613293850951910015e+09,NULL,NULL);
CREATE TABLE erasures (
	concept VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	hashes JSON NOT NULL, 
	asked_at FLOAT NOT NULL, 
	PRIMARY KEY (concept, version)
);
CREATE TABLE flows (
	tenant VARCHAR(64) NOT NULL, 
	weight FLOAT NOT NULL, 
	served FLOAT NOT NULL, 
	PRIMARY KEY (tenant, weight)
);
INSERT INTO "flows" VALUES('bob',1.0,6.0);
CREATE TABLE jobs (
	number INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	model VARCHAR(256) NOT NULL, 
	request JSON NOT NULL, 
	weight FLOAT NOT NULL, 
	progress INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	owner VARCHAR(64), 
	lease_until FLOAT, 
	created_at FLOAT NOT NULL, 
	started_at FLOAT, 
	finished_at FLOAT, 
	expires_at FLOAT, 
	timings JSON NOT NULL, 
	neighbours INTEGER, 
	error_code VARCHAR(64), 
	error_message VARCHAR(2000), 
	result_key VARCHAR(256), 
	result_sha256 VARCHAR(64), 
	result_size INTEGER, 
	idempotency_key VARCHAR(255), 
	body_sha256 VARCHAR(64), 
	webhook_url VARCHAR(2000), foundation VARCHAR(64), 
	PRIMARY KEY (number), 
	UNIQUE (tenant, idempotency_key), 
	UNIQUE (id)
);
INSERT INTO "jobs" VALUES(1,'video_a9272261e2174a3653009e1b2c9019a7','alice','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.7961329383004689216e+09,1.79613293832839798934e+09,1.79613293834024190902e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_a9272261e2174a3653009e1b2c9019a7.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(2,'video_3dfd5f7c2ba77a8367fc43f3b9d1e046','bob','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,100,0,NULL,NULL,1.7961329384124655724e+09,1.79613293842446136478e+09,1.79613293843230295183e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_3dfd5f7c2ba77a8367fc43f3b9d1e046.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,'key-completed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(3,'video_6b03eb0c571c922c9ae9131d82999152','alice','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79613293844041943545e+09,1.79613293845238232611e+09,1.79613293846045494082e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(4,'video_f56bb99ebe37be4199e18c94d4224b88','bob','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,50,0,NULL,NULL,1.79613293846842551233e+09,1.79613293848037648206e+09,1.79613293848824548716e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,'key-failed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(5,'video_325fb17ffd269ce585a358ba25b07256','alice','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79613293849226808552e+09,NULL,1.79613293849501538283e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(6,'video_95df201e6bea588f030997f455ccc9ca','bob','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,0,0,NULL,NULL,1.7961329385003724098e+09,NULL,1.79613293850834155078e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-cancelled','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(7,'video_24bbcfb12d9d737cf46a601914d77950','alice','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.79613653851781058306e+09,1.79613293851223540303e+09,1796132938.52427,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(8,'video_7000c1f17cc908d4291c9dfa198b5b32','bob','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,50,0,'host-1',1.79613653853763294222e+09,1.79613293853231525422e+09,1.79613293854429054261e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,'key-in_progress','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(9,'video_dbb5b7a0639f8b50233bbca9e68d13f0','alice','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79613293855225110047e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(10,'video_d26c457fd975584097e532aabd4cd076','bob','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,0,0,NULL,NULL,1.79613293855639433865e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-queued','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
CREATE TABLE jobs_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT jobs_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "jobs_alembic_version" VALUES('0007');
CREATE TABLE pins (
	foundation VARCHAR(64) NOT NULL, 
	path VARCHAR(16) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	concept VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	pinned BOOLEAN NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (foundation, path, sha256)
);
INSERT INTO "pins" VALUES('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','temporal','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','orbit',1,1,1);
CREATE TABLE rates (
	tenant VARCHAR(64) NOT NULL, 
	arrival FLOAT NOT NULL, 
	PRIMARY KEY (tenant)
);
INSERT INTO "rates" VALUES('alice',1700000000.5);
CREATE TABLE servers (
	foundation VARCHAR(64) NOT NULL, 
	seen FLOAT NOT NULL, 
	PRIMARY KEY (foundation)
);
INSERT INTO "servers" VALUES('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',1700000000.5);
CREATE TABLE tenants (
	name VARCHAR(64) NOT NULL, 
	id VARCHAR(16) NOT NULL, 
	created_at FLOAT NOT NULL, 
	erasing_at FLOAT, 
	storage_bytes BIGINT, 
	videos_per_day INTEGER, 
	trainings_per_day INTEGER, 
	trainings_at_once INTEGER, 
	max_priority INTEGER, 
	requests_per_minute FLOAT, 
	concurrency INTEGER, 
	PRIMARY KEY (name), 
	UNIQUE (id)
);
CREATE TABLE usage (
	job_id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	day VARCHAR(10) NOT NULL, 
	model VARCHAR(256) NOT NULL, 
	frames INTEGER NOT NULL, 
	steps INTEGER NOT NULL, 
	device_seconds FLOAT, 
	bytes BIGINT NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (job_id)
);
INSERT INTO "usage" VALUES('video_a9272261e2174a3653009e1b2c9019a7','alice','video','2026-12-01','tiny:orbit@1',4,2,NULL,3,1.79613293834237456323e+09);
INSERT INTO "usage" VALUES('video_3dfd5f7c2ba77a8367fc43f3b9d1e046','bob','video','2026-12-01','tiny:orbit@1',4,2,NULL,3,1.79613293843369197845e+09);
CREATE INDEX ix_jobs_tenant ON jobs (tenant);
CREATE INDEX ix_jobs_expires_at ON jobs (expires_at);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_owner ON jobs (owner);
CREATE INDEX ix_deliveries_next_at ON deliveries (next_at);
CREATE INDEX ix_api_keys_tenant ON api_keys (tenant);
CREATE INDEX ix_concept_shares_shared_with ON concept_shares (shared_with);
CREATE INDEX ix_usage_tenant ON usage (tenant);
CREATE INDEX ix_usage_day ON usage (day);
CREATE TRIGGER audit_log_no_UPDATE BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_no_DELETE BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
COMMIT;
