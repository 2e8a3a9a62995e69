SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.deliveries (
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    url character varying(2000) NOT NULL,
    body text NOT NULL,
    attempts integer NOT NULL,
    created_at double precision NOT NULL,
    next_at double precision,
    delivered_at double precision,
    error character varying(500)
);
CREATE TABLE public.flows (
    tenant character varying(64) NOT NULL,
    weight double precision NOT NULL,
    served double precision NOT NULL
);
CREATE TABLE public.jobs (
    number integer NOT NULL,
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    model character varying(256) NOT NULL,
    request json NOT NULL,
    weight double precision NOT NULL,
    progress integer NOT NULL,
    attempts integer NOT NULL,
    owner character varying(64),
    lease_until double precision,
    created_at double precision NOT NULL,
    started_at double precision,
    finished_at double precision,
    expires_at double precision,
    timings json NOT NULL,
    neighbours integer,
    error_code character varying(64),
    error_message character varying(2000),
    result_key character varying(256),
    result_sha256 character varying(64),
    result_size integer,
    idempotency_key character varying(255),
    body_sha256 character varying(64),
    webhook_url character varying(2000)
);
CREATE SEQUENCE public.jobs_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.jobs_number_seq OWNED BY public.jobs.number;
CREATE TABLE public.pins (
    foundation character varying(64) NOT NULL,
    path character varying(16) NOT NULL,
    sha256 character varying(64) NOT NULL,
    concept character varying(64) NOT NULL,
    version integer NOT NULL,
    pinned boolean NOT NULL,
    revision integer NOT NULL
);
CREATE TABLE public.rates (
    tenant character varying(64) NOT NULL,
    arrival double precision NOT NULL
);
CREATE TABLE public.schema_version (
    version integer NOT NULL
);
CREATE SEQUENCE public.schema_version_version_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.schema_version_version_seq OWNED BY public.schema_version.version;
ALTER TABLE ONLY public.jobs ALTER COLUMN number SET DEFAULT nextval('public.jobs_number_seq'::regclass);
ALTER TABLE ONLY public.schema_version ALTER COLUMN version SET DEFAULT nextval('public.schema_version_version_seq'::regclass);
INSERT INTO public.deliveries VALUES ('evt_6a8acdebfad1286b01497d1c22747f42', 'bob', 'https://example.com/hook', '{"id": "evt_6a8acdebfad1286b01497d1c22747f42", "object": "event", "type": "video.completed", "created_at": 1796057247, "data": {"id": "video_ff8e86ac936ad3103b91b0d7abfedbc0", "status": "completed"}}', 0, 1796057247.156247, 1796057247.156247, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_dce1a2d7672a9472ca1ef8c463fabfd1', 'bob', 'https://example.com/hook', '{"id": "evt_dce1a2d7672a9472ca1ef8c463fabfd1", "object": "event", "type": "video.failed", "created_at": 1796057247, "data": {"id": "video_e1ac9b9d0e61a5f2b71d0fd46bdf11d1", "status": "failed"}}', 0, 1796057247.3005455, 1796057247.3005455, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_030059e107545643f7918d27a943f7b8', 'bob', 'https://example.com/hook', '{"id": "evt_030059e107545643f7918d27a943f7b8", "object": "event", "type": "video.cancelled", "created_at": 1796057247, "data": {"id": "video_f750b72ae3466edca2a681d6f67d4dd2", "status": "cancelled"}}', 0, 1796057247.3323433, 1796057247.3323433, NULL, NULL);
INSERT INTO public.flows VALUES ('bob', 1, 6);
INSERT INTO public.jobs VALUES (1, 'video_d50751f5acfbd26fe04fcecb9e13fc01', 'alice', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796057246.9524593, 1796057247.0408797, 1796057247.064727, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_d50751f5acfbd26fe04fcecb9e13fc01.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (5, 'video_e28c578ce58d83dba3dfa77a093e9894', 'alice', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057247.3042405, NULL, 1796057247.3085644, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (2, 'video_ff8e86ac936ad3103b91b0d7abfedbc0', 'bob', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796057247.0769608, 1796057247.1203518, 1796057247.1403842, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_ff8e86ac936ad3103b91b0d7abfedbc0.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, 'key-completed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (3, 'video_f7ddcfd04bc437a27e342cb287158ee0', 'alice', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796057247.1640918, 1796057247.200701, 1796057247.2165263, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (4, 'video_e1ac9b9d0e61a5f2b71d0fd46bdf11d1', 'bob', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796057247.2400863, 1796057247.2720594, 1796057247.2960417, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, 'key-failed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (6, 'video_f750b72ae3466edca2a681d6f67d4dd2', 'bob', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057247.3199997, NULL, 1796057247.3249397, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-cancelled', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (7, 'video_bf7d02e4ff0c5d5d27f97a6d08ea60ad', 'alice', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796060847.366518, 1796057247.34797, 1796057247.3761764, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (8, 'video_a0a22bc55ef82ab6b49382297f4377e1', 'bob', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796060847.412638, 1796057247.3929486, 1796057247.424373, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-in_progress', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.jobs VALUES (9, 'video_40deb86eead9c9acc9bae3c3d0182122', 'alice', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057247.4413378, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (10, 'video_991c900b89f13df5d2c430ff48ef2f46', 'bob', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796057247.4488993, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-queued', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook');
INSERT INTO public.pins VALUES ('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'temporal', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'orbit', 1, true, 1);
INSERT INTO public.rates VALUES ('alice', 1700000000.5);
INSERT INTO public.schema_version VALUES (4);
SELECT pg_catalog.setval('public.jobs_number_seq', 10, true);
SELECT pg_catalog.setval('public.schema_version_version_seq', 1, false);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.flows
    ADD CONSTRAINT flows_pkey PRIMARY KEY (tenant, weight);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_id_key UNIQUE (id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_tenant_idempotency_key_key UNIQUE (tenant, idempotency_key);
ALTER TABLE ONLY public.pins
    ADD CONSTRAINT pins_pkey PRIMARY KEY (foundation, path, sha256);
ALTER TABLE ONLY public.rates
    ADD CONSTRAINT rates_pkey PRIMARY KEY (tenant);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
CREATE INDEX ix_deliveries_next_at ON public.deliveries USING btree (next_at);
CREATE INDEX ix_jobs_expires_at ON public.jobs USING btree (expires_at);
CREATE INDEX ix_jobs_owner ON public.jobs USING btree (owner);
CREATE INDEX ix_jobs_state ON public.jobs USING btree (state);
CREATE INDEX ix_jobs_tenant ON public.jobs USING btree (tenant);
