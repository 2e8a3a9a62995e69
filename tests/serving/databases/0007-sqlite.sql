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
INSERT INTO "deliveries" VALUES('evt_4287e31edc57f0ea4de8ec8454def458','bob','https://example.com/hook','{"id": "evt_4287e31edc57f0ea4de8ec8454def458", "object": "event", "type": "video.completed", "created_at": 1796132872, "data": {"id": "video_09a85d92ad1e4ad438430cd2d4cf492f", "status": "completed"}}',0,1.79613287257228517531e+09,1.79613287257228517531e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_8eeb0fe9773f313c240581a09ff5f74b','bob','https://example.com/hook','{"id": "evt_8eeb0fe9773f313c240581a09ff5f74b", "object": "event", "type": "video.failed", "created_at": 1796132872, "data": {"id": "video_7727eb903d752e795153f9d6d0b888da", "status": "failed"}}',0,1.7961328726250877381e+09,1.7961328726250877381e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_8be54fb23ddfa65c5e7bfb2552ebd8da','bob','https://example.com/hook','{"id": "evt_8be54fb23ddfa65c5e7bfb2552ebd8da", "object": "event", "type": "video.cancelled", "created_at": 1796132872, "data": {"id": "video_7800d1260634c1f186a4adcba4c3e7d5", "status": "cancelled"}}',0,1.79613287264140152931e+09,1.79613287264140152931e+09,NULL,NULL);
CREATE TABLE erasures (
	concept VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	hashes JSON NOT NULL, 
	asked_at FLOAT NOT NULL, 
	PRIMARY KEY (concept, version)
);
CREATE TABLE files (
	number INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	filename VARCHAR(255) NOT NULL, 
	purpose VARCHAR(32) NOT NULL, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR(64), 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	lifetime FLOAT, 
	PRIMARY KEY (number), 
	UNIQUE (id)
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
INSERT INTO "jobs" VALUES(1,'video_36d372a865132e38cc5c56a97ad58006','alice','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.79613287250446057316e+09,1.79613287252829718584e+09,1.79613287253620791433e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_36d372a865132e38cc5c56a97ad58006.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(2,'video_09a85d92ad1e4ad438430cd2d4cf492f','bob','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,100,0,NULL,NULL,1.79613287254439783096e+09,1.79613287256034779553e+09,1.79613287257086586953e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_09a85d92ad1e4ad438430cd2d4cf492f.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,'key-completed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(3,'video_fb1594b3f1538d17b48c33df7cf402a2','alice','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79613287257627534864e+09,1.7961328725883457661e+09,1.79613287259622216225e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(4,'video_7727eb903d752e795153f9d6d0b888da','bob','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,50,0,NULL,NULL,1.79613287260017704966e+09,1.79613287261634588243e+09,1.79613287262416625026e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,'key-failed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(5,'video_12f4a9464ee069350fb3347478633321','alice','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79613287262816929816e+09,NULL,1.79613287263221120832e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(6,'video_7800d1260634c1f186a4adcba4c3e7d5','bob','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,0,0,NULL,NULL,1.79613287263630580902e+09,NULL,1796132872.64025,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-cancelled','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(7,'video_59c181b821f79eff7239093ad927414c','alice','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.79613647265381932253e+09,1.79613287264424157144e+09,1.79613287266032361976e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(8,'video_cb49f022bfa43e9db2187d3ab2e6bc48','bob','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,50,0,'host-1',1.79613647267759418482e+09,1.79613287267115640639e+09,1.79613287268427848815e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,'key-in_progress','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO "jobs" VALUES(9,'video_1f99deb3f58acdd86c751344bf418540','alice','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79613287269216537469e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(10,'video_18f90eb85995721a513d0719cf8a248c','bob','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,0,0,NULL,NULL,1.79613287269630646702e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-queued','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
CREATE TABLE jobs_alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT jobs_alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "jobs_alembic_version" VALUES('0008');
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
CREATE TABLE training_events (
	number INTEGER NOT NULL, 
	training VARCHAR(64) NOT NULL, 
	place INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	level VARCHAR(8) NOT NULL, 
	kind VARCHAR(8) NOT NULL, 
	message VARCHAR(2000) NOT NULL, 
	data JSON NOT NULL, 
	PRIMARY KEY (number)
);
CREATE TABLE trainings (
	number INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	state VARCHAR(24) NOT NULL, 
	concept VARCHAR(64) NOT NULL, 
	foundation VARCHAR(64) NOT NULL, 
	request JSON NOT NULL, 
	work JSON, 
	entered BOOLEAN NOT NULL, 
	settled BOOLEAN NOT NULL, 
	revision INTEGER NOT NULL, 
	owner VARCHAR(64), 
	lease_until FLOAT, 
	step INTEGER NOT NULL, 
	steps INTEGER, 
	loss FLOAT, 
	step_seconds FLOAT, 
	version VARCHAR(128), 
	created_at FLOAT NOT NULL, 
	started_at FLOAT, 
	finished_at FLOAT, 
	error_code VARCHAR(64), 
	error_message VARCHAR(2000), 
	error_param VARCHAR(64), 
	idempotency_key VARCHAR(255), 
	body_sha256 VARCHAR(64), 
	webhook_url VARCHAR(2000), 
	PRIMARY KEY (number), 
	UNIQUE (tenant, idempotency_key), 
	UNIQUE (id)
);
CREATE TABLE upload_parts (
	number INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	file VARCHAR(64) NOT NULL, 
	place INTEGER, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (file, place), 
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
INSERT INTO "usage" VALUES('video_36d372a865132e38cc5c56a97ad58006','alice','video','2026-12-01','tiny:orbit@1',4,2,NULL,3,1.79613287253813123708e+09);
INSERT INTO "usage" VALUES('video_09a85d92ad1e4ad438430cd2d4cf492f','bob','video','2026-12-01','tiny:orbit@1',4,2,NULL,3,1.79613287257184672351e+09);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_owner ON jobs (owner);
CREATE INDEX ix_jobs_expires_at ON jobs (expires_at);
CREATE INDEX ix_jobs_tenant ON jobs (tenant);
CREATE INDEX ix_deliveries_next_at ON deliveries (next_at);
CREATE INDEX ix_api_keys_tenant ON api_keys (tenant);
CREATE INDEX ix_concept_shares_shared_with ON concept_shares (shared_with);
CREATE INDEX ix_usage_day ON usage (day);
CREATE INDEX ix_usage_tenant ON usage (tenant);
CREATE TRIGGER audit_log_no_UPDATE BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_no_DELETE BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE INDEX ix_files_tenant ON files (tenant);
CREATE INDEX ix_files_state ON files (state);
CREATE INDEX ix_files_expires_at ON files (expires_at);
CREATE INDEX ix_upload_parts_file ON upload_parts (file);
CREATE INDEX ix_trainings_concept ON trainings (concept);
CREATE INDEX ix_trainings_tenant ON trainings (tenant);
CREATE INDEX ix_trainings_finished_at ON trainings (finished_at);
CREATE INDEX ix_trainings_settled ON trainings (settled);
CREATE INDEX ix_trainings_state ON trainings (state);
CREATE INDEX ix_training_events_training ON training_events (training);
COMMIT;
